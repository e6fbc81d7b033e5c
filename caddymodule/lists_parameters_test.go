package caddymodule

import (
	"net/http"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestServeListsLongParameters checks that parameters by which answers are remembered
// have a limit, which links to the next page keep.
func TestServeListsLongParameters(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "1", []byte("x"))
	link := ""
	up.SetFault(func(w http.ResponseWriter, _ *http.Request) bool {
		if link != "" {
			w.Header().Set("Link", link)
		}
		return false
	})
	s := start(t, users("alice"), private("acme", "alice"), hub(up))
	base := "/v2/acme" + infix + "alpine/"
	for _, path := range []string{"tags/list?n=1&last=", "tags/list?next_page=", "referrers/" + string(image.Manifest) + "?artifactType="} {
		s.get(base+path+strings.Repeat("a", maxParameter), as("alice")).expect(t, http.StatusOK, "")
		s.get(base+path+strings.Repeat("a", maxParameter+1), as("alice")).expect(t, http.StatusBadRequest, "UNSUPPORTED")
	}
	link = "</v2/library/alpine/tags/list?last=" + strings.Repeat("{", 400) + `>; rel="next"`
	s.get(base+"tags/list?n=7", as("alice")).expect(t, http.StatusOK, "").has(t, "Link", "")
	if !strings.Contains(s.logs(), "a list of tags is incomplete") {
		t.Error("the log does not tell that the list is incomplete")
	}
}
