package caddymodule

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/admin"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestStatusCommand checks that the state of the storage, the upstreams, the
// directories, the downloads and the log is reported.
func TestStatusCommand(t *testing.T) {
	up := registrytest.New(t)
	for i, image := range []string{"a", "b", "c"} {
		up.PutImage("library/"+image, "1", sitetest.Random(byte(3+i), 2000))
	}
	slow := up.PutBlob("library/a", sitetest.Random(2, 300_000))
	s := sitetest.NewSite(t)
	s.Limits = "max_size 1GiB"
	s.OpenAdmin()
	s.Load("name main", sitetest.Users("alice"), sitetest.Private("acme", "alice"),
		"group other {\n members alice\n upstream docker.io {\n "+sitetest.HubCredentials(t)+"\n }\n}\n", sitetest.Hub(up, "fresh_for 1ns"))
	before := s.Status().Requests
	sitetest.Pull(t, s, "acme", "a", "1", sitetest.As("alice"))
	sitetest.Pull(t, s, "acme", "b", "1", sitetest.As("alice"))
	sitetest.Eventually(t, "the pulls are counted", func() bool { return s.Status().Requests.Served >= before.Served+6 })
	st := s.Status()
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
	body := s.Open(sitetest.BlobPath("acme", "a", slow), sitetest.As("alice")).Body
	defer body.Close()
	up.Fail(registrytest.Failure{Op: registrytest.OpManifest, Status: http.StatusServiceUnavailable})
	for _, image := range []string{"a", "b", "c", "a", "b"} {
		s.Get(sitetest.ManifestPath("acme", image, "1"), sitetest.As("alice"))
	}
	sitetest.Eventually(t, "the upstream is down, and the fill and the log are seen", func() bool {
		st := s.Status()
		return st.Sites[0].Upstreams[0].State == "down" && len(st.Caches[0].Fills) == 1 && st.Caches[0].Fills[0].Written > 1000 &&
			slices.ContainsFunc(st.Errors, func(l admin.LogLine) bool {
				return strings.Contains(l.Message, "upstream is down") && l.Fields["upstream"] == "docker.io"
			})
	})
	out := s.MustCommand("status")
	for _, want := range []string{"filesystem " + s.Cache, " of 1.0 GiB in ", " of them from the cache", "main  docker.io  " + up.Host() + "  common  down since ",
		"static     ok", string(slow), " of 293 KiB", "LAST WARNINGS AND ERRORS", `upstream="docker.io"`} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q:\n%s", want, out)
		}
	}
	if strings.Contains(out, sitetest.UpstreamPassword) || strings.Contains(s.MustCommand("status", "--json"), sitetest.UpstreamPassword) {
		t.Error("the output has the password of an upstream")
	}
	s.Ask("GET", "/dependency_proxy/status?site=none", "").Expect(t, http.StatusNotFound, "")
	s.Ask("GET", "/dependency_proxy/status?x=1", "").Expect(t, http.StatusBadRequest, "")
}
