package caddymodule

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// hubAt returns the lines of the upstream docker.io with several endpoints.
func hubAt(lines string, endpoints ...*registrytest.Registry) string {
	var urls []string
	for _, r := range endpoints {
		urls = append(urls, r.URL())
	}
	return sitetest.UpstreamAt("docker.io", strings.Join(urls, " "), lines)
}

// newMirrors returns two registries with the same image and login.
func newMirrors(t *testing.T) (a, b *registrytest.Registry) {
	t.Helper()
	a, b = registrytest.New(t, registrytest.WithToken("hub", sitetest.UpstreamPassword)), registrytest.New(t, registrytest.WithToken("hub", sitetest.UpstreamPassword))
	for _, r := range []*registrytest.Registry{a, b} {
		r.PutImage("library/alpine", "3.20", sitetest.Random(1, 1000))
		r.PutImage("library/alpine", "3.21", sitetest.Random(2, 1000))
	}
	return a, b
}

// TestUpstreamEndpoints checks that the second endpoint is asked, with the login, if
// the first one cannot answer, and only then.
func TestUpstreamEndpoints(t *testing.T) {
	a, b := newMirrors(t)
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), hubAt(sitetest.HubCredentials(t), a, b))
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
	s.Get(sitetest.ManifestPath("acme", "alpine", "none"), sitetest.As("alice")).Expect(t, http.StatusNotFound, "MANIFEST_UNKNOWN")
	sitetest.ExpectRequests(t, b, "while the first endpoint answers", registrytest.Counts{})

	a.Close()
	sitetest.Pull(t, s, "acme", "alpine", "3.21", sitetest.As("alice"))
	if got := b.Counts(); got.Token != 1 || got.ManifestGet != 1 || got.BlobGet != 2 {
		t.Errorf("got requests %+v, want a pull with a token", got)
	}
	if logs := s.Logs(); !strings.Contains(logs, "cannot answer; asking the others") || !strings.Contains(logs, `"endpoint":"`+a.Host()+`"`) {
		t.Error("the log lacks a warning with the endpoint that cannot answer")
	}
	unknown := s.Get(sitetest.ManifestPath("acme", "alpine", "nowhere"), sitetest.As("alice")).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	if strings.Contains(string(unknown.Data), a.Host()) || !strings.Contains(s.Logs(), "at "+b.Host()+": manifest nowhere: not found") {
		t.Errorf("got %s, want the hosts of the endpoints in the log only", unknown.Data)
	}
}

// TestUpstreamEndpointsAtTheLimit checks that the rate limit of the first endpoint is
// reported if the second one does not have the image.
func TestUpstreamEndpointsAtTheLimit(t *testing.T) {
	a, b := newMirrors(t)
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), hubAt(sitetest.HubCredentials(t), a, b))
	a.Fail(registrytest.Failure{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"3000"}}})
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
	s.Get(sitetest.ManifestPath("acme", "alpine", "none"), sitetest.As("alice")).Expect(t, http.StatusTooManyRequests, "TOOMANYREQUESTS")
	if got := a.Counts().ManifestHead + a.Counts().ManifestGet + a.Counts().BlobGet; got != 1 {
		t.Errorf("got %d requests to the endpoint that is at its limit, want 1", got)
	}
}

// TestUpstreamEndpointsMidway checks that a large blob that breaks off again and
// again at one endpoint comes from the other one.
func TestUpstreamEndpointsMidway(t *testing.T) {
	content, d := sitetest.LargeLayer()
	a, b := registrytest.New(t), registrytest.New(t)
	a.PutBlob("library/alpine", content)
	b.PutBlob("library/alpine", content)
	a.CutBlobs(1_000_000, 1_000)
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), hubAt("", a, b))
	got := s.Get(sitetest.BlobPath("acme", "alpine", string(d)), sitetest.As("alice")).Expect(t, http.StatusOK, "")
	if got.Err != nil || digest.FromBytes(got.Data) != d {
		t.Fatalf("got %d bytes, error %v; want the blob of %d bytes", len(got.Data), got.Err, sitetest.LargeSize)
	}
	if fromA, fromB := a.Counts().BlobBytes, b.Counts().BlobBytes; fromA == 0 || fromB == 0 || fromA+fromB > sitetest.LargeSize+1_000_000 {
		t.Errorf("got %d and %d bytes from the endpoints, want %d bytes from both", fromA, fromB, sitetest.LargeSize)
	}
}

// TestUpstreamEndpointsKeepTheCache checks that the cache belongs to the first
// endpoint: others can be added and removed.
func TestUpstreamEndpointsKeepTheCache(t *testing.T) {
	a, b := newMirrors(t)
	load := func(s *sitetest.Site, endpoints ...*registrytest.Registry) {
		s.Load(sitetest.Users("alice"), sitetest.Private("acme", "alice"), hubAt(sitetest.HubCredentials(t), endpoints...))
		sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
	}
	s := sitetest.NewSite(t)
	load(s, a)
	a.Reset()
	load(s, a, b)
	load(s, a)
	sitetest.ExpectRequests(t, a, "after an endpoint was added and removed", registrytest.Counts{})
	sitetest.ExpectRequests(t, b, "as a second endpoint", registrytest.Counts{})
	load(s, b, a)
	if got := b.Counts(); got.ManifestGet != 1 || got.BlobGet != 2 {
		t.Errorf("got requests %+v to a new first endpoint, want a whole pull", got)
	}
	sitetest.ExpectRequests(t, a, "as a second endpoint", registrytest.Counts{})
}

// TestUpstreamEndpointsArePrivate checks that the address of each endpoint is
// checked before a connection is made.
func TestUpstreamEndpointsArePrivate(t *testing.T) {
	a, b := newMirrors(t)
	lines := strings.Replace(hubAt(sitetest.HubCredentials(t), a, b), "allow_private", "", 1)
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), lines)
	s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.As("alice")).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	sitetest.ExpectRequests(t, a, "at a private address", registrytest.Counts{})
	sitetest.ExpectRequests(t, b, "at a private address", registrytest.Counts{})
	t.Setenv("SECOND", "ftp://registry.example.com")
	err := s.Validate(sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.UpstreamAt("docker.io", a.URL()+" {env.SECOND}"))
	if err == nil || !strings.Contains(err.Error(), "invalid endpoint 2 of 2") {
		t.Errorf("got error %v for an invalid second endpoint, want one", err)
	}
}

// TestFallbackEndpoints checks the endpoints of a configuration in JSON.
func TestFallbackEndpoints(t *testing.T) {
	for _, row := range []struct {
		endpoint  string
		fallbacks []string
		want      string // the endpoints, or a part of the error
	}{
		{"", nil, "[https://registry-1.docker.io]"},
		{"", []string{"https://mirror.example.com"}, "[https://registry-1.docker.io https://mirror.example.com]"},
		{"http://a.example.com", []string{"http://b.example.com", "https://c.example.com/d"}, "[http://a.example.com http://b.example.com https://c.example.com/d]"},
		{"https://a.example.com", []string{""}, "invalid endpoint 2 of 2"},
		{"", []string{"https://registry-1.docker.io"}, "endpoint 2 of 2 repeats"},
		{"https://a.example.com", []string{"https://b.example.com", "http://c.example.com"}, "endpoint 3 of 3 uses http"},
	} {
		u := &Upstream{Name: dockerHub, Endpoint: row.endpoint, FallbackEndpoints: row.fallbacks}
		ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
		err := u.provision(ctx)
		cancel()
		if checked := u.check(); (checked == nil) != (err == nil) {
			t.Errorf("%q %q: got error %v before and %v at the start, want the same", row.endpoint, row.fallbacks, checked, err)
		}
		if got := fmt.Sprint(u.endpoints, err); !strings.Contains(got, row.want) {
			t.Errorf("%q %q: got %s, want %s", row.endpoint, row.fallbacks, got, row.want)
		}
	}
}
