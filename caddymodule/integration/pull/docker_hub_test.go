package pull

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// fakeHub is a registry with the parts of Docker Hub: its token service has another
// address, blobs are redirected to a third one, and GET requests for manifests are
// limited. Its responses tell how many are left. HEAD requests are not counted.
type fakeHub struct {
	*registrytest.Registry
	auth   *httptest.Server
	logins atomic.Int32 // requests for a token with the right login
	left   atomic.Int32
}

func newFakeHub(t *testing.T, left int32) *fakeHub {
	t.Helper()
	h := new(fakeHub)
	h.left.Store(left)
	h.auth = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if name, password, _ := r.BasicAuth(); name == "hub" && password == sitetest.UpstreamPassword {
			h.logins.Add(1)
		}
		forward := &httputil.ReverseProxy{Transport: h.Transport(), Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(h.Endpoint()) }}
		forward.ServeHTTP(w, r)
	}))
	t.Cleanup(h.auth.Close)
	h.Registry = registrytest.New(t, registrytest.WithTLS(), registrytest.WithToken("hub", sitetest.UpstreamPassword),
		registrytest.WithRealm(h.auth.URL+"/token"), registrytest.WithBlobRedirect())
	h.SetFault(h.limit)
	return h
}

// limit is a hook of the registry.
func (h *fakeHub) limit(w http.ResponseWriter, r *http.Request) bool {
	if !strings.Contains(r.URL.Path, "/manifests/") || r.Header.Get("Authorization") == "" {
		return false
	}
	left := h.left.Load()
	if r.Method == http.MethodGet && left > 0 {
		left = h.left.Add(-1)
	} else if r.Method == http.MethodGet {
		left = -1
	}
	w.Header().Set("Ratelimit-Limit", "100;w=21600")
	w.Header().Set("Ratelimit-Remaining", strconv.Itoa(int(max(left, 0)))+";w=21600")
	w.Header().Set("Docker-Ratelimit-Source", "192.0.2.1")
	if left < 0 {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusTooManyRequests)
		_, _ = w.Write([]byte(`{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your unauthenticated pull rate limit. https://www.docker.com/increase-rate-limit"}]}`))
	}
	return left < 0
}

// TestDockerHub checks the requests that Docker Hub receives for pulls, that its
// login is sent to its token service only, and that its limit affects neither images
// that are in the cache nor the headers of responses.
func TestDockerHub(t *testing.T) {
	up := newFakeHub(t, 1)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 1000))
	up.PutImage("library/busybox", "1", sitetest.Random(2, 1000))
	authHost := strings.TrimPrefix(up.auth.URL, "https://")
	lines := func(freshFor string) []string {
		return []string{sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up.Registry, sitetest.HubCredentials(t), "realm_hosts "+authHost,
			"transport http {\n tls_insecure_skip_verify\n}", "fresh_for "+freshFor)}
	}
	s := sitetest.Start(t, lines("1h")...)
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
	sitetest.ExpectRequests(t, up.Registry, "not in the cache", registrytest.Counts{Token: 1, Challenged: 1, ManifestHead: 1, ManifestGet: 1, BlobGet: 2, Storage: 2})
	if up.logins.Load() != 1 || up.left.Load() != 0 {
		t.Errorf("got %d logins at the token service and %d requests left, want 1 and 0", up.logins.Load(), up.left.Load())
	}
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
	sitetest.ExpectRequests(t, up.Registry, "fresh", registrytest.Counts{})
	s.Load(lines("1ns")...)
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice")) // with a new transport, and so with a new token
	up.Reset()
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
	sitetest.ExpectRequests(t, up.Registry, "no longer fresh", registrytest.Counts{ManifestHead: 1})

	a := s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.As("alice")).Expect(t, http.StatusOK, "")
	limited := s.Get(sitetest.ManifestPath("acme", "busybox", "1"), sitetest.As("alice")).Expect(t, http.StatusTooManyRequests, "TOOMANYREQUESTS")
	if seconds, err := strconv.Atoi(limited.Header.Get("Retry-After")); err != nil || seconds < 1 {
		t.Errorf("got Retry-After %q, want seconds", limited.Header.Get("Retry-After"))
	}
	for _, name := range []string{"Ratelimit-Limit", "Ratelimit-Remaining", "Docker-Ratelimit-Source"} {
		a.Has(t, name, "")
		limited.Has(t, name, "")
	}
	up.left.Store(1)
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
}
