package caddymodule

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/admin"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestStatusCommand checks that the state of the storage, the upstreams, the
// directories, the downloads and the log is reported.
func TestStatusCommand(t *testing.T) {
	up := registrytest.New(t)
	for i, image := range []string{"a", "b", "c"} {
		up.PutImage("library/"+image, "1", random(byte(3+i), 2000))
	}
	slow := up.PutBlob("library/a", random(2, 300_000))
	s := newSite(t)
	s.limits = "max_size 1GiB"
	s.openAdmin()
	s.load("name main", users("alice"), private("acme", "alice"),
		"group other {\n members alice\n upstream docker.io {\n "+hubCredentials(t)+"\n }\n}\n", hub(up, "fresh_for 1ns"))
	before := s.status().Requests
	pull(t, s, "acme", "a", "1", as("alice"))
	pull(t, s, "acme", "b", "1", as("alice"))
	eventually(t, "the pulls are counted", func() bool { return s.status().Requests.Served >= before.Served+6 })
	st := s.status()
	if c := st.Caches[0]; len(st.Caches) != 1 || c.Bytes < 4000 || c.Limit != 1<<30 || c.Blobs < 5 || st.Requests.Since.IsZero() {
		t.Errorf("got caches %+v and requests %+v, want what was pulled", st.Caches, st.Requests)
	}
	site := st.Sites[0]
	logins := []string{site.Upstreams[0].Login, site.Upstreams[1].Login}
	if site.Name != "main" || !slices.Equal(logins, []string{"common", "other"}) || site.Upstreams[0].State == "down" || site.Upstreams[0].Host != up.Host() ||
		len(site.Directories) != 1 || site.Directories[0].Name != "static" {
		t.Errorf("got site %+v, want the upstream with two logins, and one directory", site)
	}

	release := up.StallBlobs(100_000)
	defer release()
	body := s.open(blobPath("acme", "a", slow), as("alice")).Body
	defer body.Close()
	up.Fail(registrytest.Failure{Op: registrytest.OpManifest, Status: http.StatusServiceUnavailable})
	for _, image := range []string{"a", "b", "c", "a", "b"} {
		s.get(manifestPath("acme", image, "1"), as("alice"))
	}
	eventually(t, "the upstream is down, and the fill and the log are seen", func() bool {
		st := s.status()
		return st.Sites[0].Upstreams[0].State == "down" && len(st.Caches[0].Fills) == 1 && st.Caches[0].Fills[0].Written > 1000 &&
			slices.ContainsFunc(st.Errors, func(l admin.LogLine) bool {
				return strings.Contains(l.Message, "upstream is down") && l.Fields["upstream"] == "docker.io"
			})
	})
	out := s.mustCommand("status")
	for _, want := range []string{"filesystem " + s.cache, " of 1.0 GiB in ", " of them from the cache", "main  docker.io  " + up.Host() + "  common  down since ",
		"static     ok", string(slow), " of 293 KiB", "LAST WARNINGS AND ERRORS", `upstream="docker.io"`} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, upstreamPassword) || strings.Contains(s.mustCommand("status", "--json"), upstreamPassword) {
		t.Error("the output has the password of an upstream")
	}
	s.ask("GET", "/dependency_proxy/status?site=none", "").expect(t, http.StatusNotFound, "")
	s.ask("GET", "/dependency_proxy/status?x=1", "").expect(t, http.StatusBadRequest, "")
}
