package pull

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// selfCredentials returns the line with the credentials of alice.
func selfCredentials(t *testing.T) string {
	t.Setenv("SELF_PASSWORD", sitetest.PasswordOf("alice"))
	return "credentials alice {env.SELF_PASSWORD}"
}

// TestOwnUpstream checks that images are pulled from a site that is its own upstream, or
// that of another site on the same cache, where the pull ends at another registry.
func TestOwnUpstream(t *testing.T) {
	up := registrytest.New(t)
	layer := sitetest.Random(1, 300_000)
	image := up.PutImage("library/alpine", "3.20", layer)

	s := sitetest.NewSite(t)
	s.Load(sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up), sitetest.UpstreamAt("self", s.URL, selfCredentials(t)))
	sitetest.Pull(t, s, "acme", "self/acme/dependency_proxy/containers/alpine", "3.20", sitetest.As("alice"))
	s.Stop()

	s, other, second := sitetest.TwoSites(t)
	s.After = second(sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	s.Load(sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.UpstreamAt("other", other.URL+"/acme/dependency_proxy/containers", selfCredentials(t)))
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
	s.Get(sitetest.BlobPath("acme", "alpine", image.Layers[0]), sitetest.As("alice"), sitetest.Header("Via", "1.1 somebody, 1.1 else")).Content(t, layer)
}

// TestUpstreamLoop checks that a pull that leads back to the same upstream of this
// process, directly or by way of another site, ends at once with an error that says so.
func TestUpstreamLoop(t *testing.T) {
	const infixed = "/acme/dependency_proxy/containers"
	up := registrytest.New(t)
	d := up.PutBlob("library/alpine", sitetest.Random(1, 1000))
	expect := func(s *sitetest.Site) {
		t.Helper()
		for _, path := range []string{sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.ManifestPath("acme", "alpine", string(d)), sitetest.BlobPath("acme", "alpine", d), "/v2" + infixed + "/alpine/tags/list"} {
			a := s.Get(path, sitetest.As("alice")).Expect(t, http.StatusBadGateway, "UNAVAILABLE")
			if _, message := a.Problem(); !strings.Contains(message, "leads back to this proxy") {
				t.Errorf("%s: got the message %q, want one about a loop", path, message)
			}
			s.Head(path, sitetest.As("alice")).Expect(t, http.StatusBadGateway, "")
		}
	}
	s := sitetest.NewSite(t)
	s.Load(sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.UpstreamAt("self", s.URL+infixed, selfCredentials(t)))
	expect(s)
	s.Stop()

	s, other, second := sitetest.TwoSites(t)
	s.After = second(sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.UpstreamAt("one", s.URL+infixed, selfCredentials(t)))
	s.Load(sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.UpstreamAt("two", other.URL+infixed, selfCredentials(t)))
	expect(s)
	expect(other)
}

// crossing leads to two sites, and holds some requests to each until the other gets
// the same: those whose method and path are the keys.
type crossing map[string]*sync.WaitGroup

// to returns the address of a server that leads to a site.
func (c crossing) to(t *testing.T, s *sitetest.Site) string {
	target, err := url.Parse(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host
	}}
	var seen sync.Map
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		what := r.Method + " " + r.URL.Path
		if both := c[what]; both != nil {
			if _, again := seen.LoadOrStore(what, true); !again {
				both.Done()
			}
			both.Wait()
		}
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// TestUpstreamLoopAtOnce checks that pulls of the same from two sites that are each
// other's upstream end soon although each joins the request of the other to what it
// has asked itself, so that none comes back to where it began.
func TestUpstreamLoopAtOnce(t *testing.T) {
	const infixed = "/acme/dependency_proxy/containers"
	requests := []struct{ method, path string }{
		{"HEAD", sitetest.ManifestPath("acme", "alpine", "3.20")},
		{"GET", sitetest.ManifestPath("acme", "alpine", string(digest.FromString("get")))},
		{"HEAD", sitetest.ManifestPath("acme", "alpine", string(digest.FromString("head")))},
		{"GET", sitetest.BlobPath("acme", "alpine", digest.FromString("get"))},
		{"HEAD", sitetest.BlobPath("acme", "alpine", digest.FromString("head"))},
		{"GET", "/v2" + infixed + "/alpine/tags/list"},
	}
	c := make(crossing)
	for _, r := range requests {
		c[r.method+" "+r.path] = new(sync.WaitGroup)
		c[r.method+" "+r.path].Add(2)
	}
	s, other, second := sitetest.TwoSites(t)
	s.After = second(sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.UpstreamAt("one", c.to(t, s)+infixed, selfCredentials(t)))
	s.Load(sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.UpstreamAt("two", c.to(t, other)+infixed, selfCredentials(t)))
	began := time.Now()
	sitetest.Concurrently(2*len(requests), func(i int) {
		r, at := requests[i/2], []*sitetest.Site{s, other}[i%2]
		a := at.Get(r.path, sitetest.As("alice"), sitetest.Method(r.method))
		if a.StatusCode != http.StatusBadGateway || !strings.Contains(a.Header.Get("Cache-Status"), "detail=loop") {
			t.Errorf("%s %s at site %d: got %d %s, want 502 and the status of a loop", r.method, r.path, i%2+1, a.StatusCode, a.Data)
		}
	})
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("took %s, want less than the time limit of a question", took)
	}
}
