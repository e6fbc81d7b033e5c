package caddymodule

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

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// selfCredentials returns the line with the credentials of alice.
func selfCredentials(t *testing.T) string {
	t.Setenv("SELF_PASSWORD", passwordOf("alice"))
	return "credentials alice {env.SELF_PASSWORD}"
}

// TestOwnUpstream checks that images are pulled from a site that is its own upstream, or
// that of another site on the same cache, where the pull ends at another registry.
func TestOwnUpstream(t *testing.T) {
	up := registrytest.New(t)
	layer := random(1, 300_000)
	image := up.PutImage("library/alpine", "3.20", layer)

	s := newSite(t)
	s.load(users("alice"), private("acme", "alice"), hub(up), upstreamAt("self", s.url, selfCredentials(t)))
	pull(t, s, "acme", "self/acme/dependency_proxy/containers/alpine", "3.20", as("alice"))
	s.stop()

	s, other, second := twoSites(t)
	s.after = second(users("alice"), private("acme", "alice"), hub(up))
	s.load(users("alice"), private("acme", "alice"), upstreamAt("other", other.url+"/acme/dependency_proxy/containers", selfCredentials(t)))
	pull(t, s, "acme", "alpine", "3.20", as("alice"))
	s.get(blobPath("acme", "alpine", image.Layers[0]), as("alice"), header("Via", "1.1 somebody, 1.1 else")).content(t, layer)
}

// TestUpstreamLoop checks that a pull that leads back to the same upstream of this
// process, directly or by way of another site, ends at once with an error that says so.
func TestUpstreamLoop(t *testing.T) {
	const infixed = "/acme/dependency_proxy/containers"
	up := registrytest.New(t)
	d := up.PutBlob("library/alpine", random(1, 1000))
	expect := func(s *site) {
		t.Helper()
		for _, path := range []string{manifestPath("acme", "alpine", "3.20"), manifestPath("acme", "alpine", string(d)), blobPath("acme", "alpine", d), "/v2" + infixed + "/alpine/tags/list"} {
			a := s.get(path, as("alice")).expect(t, http.StatusBadGateway, "UNAVAILABLE")
			if _, message := a.problem(); !strings.Contains(message, "leads back to this proxy") {
				t.Errorf("%s: got the message %q, want one about a loop", path, message)
			}
			s.head(path, as("alice")).expect(t, http.StatusBadGateway, "")
		}
	}
	s := newSite(t)
	s.load(users("alice"), private("acme", "alice"), upstreamAt("self", s.url+infixed, selfCredentials(t)))
	expect(s)
	s.stop()

	s, other, second := twoSites(t)
	s.after = second(users("alice"), private("acme", "alice"), upstreamAt("one", s.url+infixed, selfCredentials(t)))
	s.load(users("alice"), private("acme", "alice"), upstreamAt("two", other.url+infixed, selfCredentials(t)))
	expect(s)
	expect(other)
}

// crossing leads to two sites, and holds some requests to each until the other gets
// the same: those whose method and path are the keys.
type crossing map[string]*sync.WaitGroup

// to returns the address of a server that leads to a site.
func (c crossing) to(t *testing.T, s *site) string {
	target, err := url.Parse(s.url)
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
		{"HEAD", manifestPath("acme", "alpine", "3.20")},
		{"GET", manifestPath("acme", "alpine", string(digest.FromString("get")))},
		{"HEAD", manifestPath("acme", "alpine", string(digest.FromString("head")))},
		{"GET", blobPath("acme", "alpine", digest.FromString("get"))},
		{"HEAD", blobPath("acme", "alpine", digest.FromString("head"))},
		{"GET", "/v2" + infixed + "/alpine/tags/list"},
	}
	c := make(crossing)
	for _, r := range requests {
		c[r.method+" "+r.path] = new(sync.WaitGroup)
		c[r.method+" "+r.path].Add(2)
	}
	s, other, second := twoSites(t)
	s.after = second(users("alice"), private("acme", "alice"), upstreamAt("one", c.to(t, s)+infixed, selfCredentials(t)))
	s.load(users("alice"), private("acme", "alice"), upstreamAt("two", c.to(t, other)+infixed, selfCredentials(t)))
	began := time.Now()
	concurrently(2*len(requests), func(i int) {
		r, at := requests[i/2], []*site{s, other}[i%2]
		a := at.get(r.path, as("alice"), method(r.method))
		if a.StatusCode != http.StatusBadGateway || !strings.Contains(a.Header.Get("Cache-Status"), "detail=loop") {
			t.Errorf("%s %s at site %d: got %d %s, want 502 and the status of a loop", r.method, r.path, i%2+1, a.StatusCode, a.body)
		}
	})
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("took %s, want less than the time limit of a question", took)
	}
}
