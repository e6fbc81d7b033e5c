package caddymodule

import (
	"net/http"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
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
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	base := "/v2/acme" + infix + "alpine/"
	for _, path := range []string{"tags/list?n=1&last=", "tags/list?next_page=", "referrers/" + string(image.Manifest) + "?artifactType="} {
		s.Get(base+path+strings.Repeat("a", maxParameter), sitetest.As("alice")).Expect(t, http.StatusOK, "")
		s.Get(base+path+strings.Repeat("a", maxParameter+1), sitetest.As("alice")).Expect(t, http.StatusBadRequest, "UNSUPPORTED")
	}
	link = "</v2/library/alpine/tags/list?last=" + strings.Repeat("{", 400) + `>; rel="next"`
	s.Get(base+"tags/list?n=7", sitetest.As("alice")).Expect(t, http.StatusOK, "").Has(t, "Link", "")
	if !strings.Contains(s.Logs(), "a list of tags is incomplete") {
		t.Error("the log does not tell that the list is incomplete")
	}
}
