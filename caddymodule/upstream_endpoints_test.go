package caddymodule

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// hubAt returns the lines of the upstream docker.io with several endpoints.
func hubAt(lines string, endpoints ...*registrytest.Registry) string {
	var urls []string
	for _, r := range endpoints {
		urls = append(urls, r.URL())
	}
	return upstreamAt("docker.io", strings.Join(urls, " "), lines)
}

// newMirrors returns two registries with the same image and login.
func newMirrors(t *testing.T) (a, b *registrytest.Registry) {
	t.Helper()
	a, b = registrytest.New(t, registrytest.WithToken("hub", upstreamPassword)), registrytest.New(t, registrytest.WithToken("hub", upstreamPassword))
	for _, r := range []*registrytest.Registry{a, b} {
		r.PutImage("library/alpine", "3.20", random(1, 1000))
		r.PutImage("library/alpine", "3.21", random(2, 1000))
	}
	return a, b
}

// TestUpstreamEndpoints checks that the second endpoint is asked, with the login, if
// the first one cannot answer, and only then.
func TestUpstreamEndpoints(t *testing.T) {
	a, b := newMirrors(t)
	s := start(t, users("alice"), private("acme", "alice"), hubAt(hubCredentials(t), a, b))
	pull(t, s, "acme", "alpine", "3.20", as("alice"))
	s.get(manifestPath("acme", "alpine", "none"), as("alice")).expect(t, http.StatusNotFound, "MANIFEST_UNKNOWN")
	expectRequests(t, b, "while the first endpoint answers", registrytest.Counts{})

	a.Close()
	pull(t, s, "acme", "alpine", "3.21", as("alice"))
	if got := b.Counts(); got.Token != 1 || got.ManifestGet != 1 || got.BlobGet != 2 {
		t.Errorf("got requests %+v, want a pull with a token", got)
	}
	if logs := s.logs(); !strings.Contains(logs, "cannot answer; asking the others") || !strings.Contains(logs, `"endpoint":"`+a.Host()+`"`) {
		t.Error("the log lacks a warning with the endpoint that cannot answer")
	}
	unknown := s.get(manifestPath("acme", "alpine", "nowhere"), as("alice")).expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	if strings.Contains(string(unknown.body), a.Host()) || !strings.Contains(s.logs(), "at "+b.Host()+": manifest nowhere: not found") {
		t.Errorf("got %s, want the hosts of the endpoints in the log only", unknown.body)
	}
}

// TestUpstreamEndpointsAtTheLimit checks that the rate limit of the first endpoint is
// reported if the second one does not have the image.
func TestUpstreamEndpointsAtTheLimit(t *testing.T) {
	a, b := newMirrors(t)
	s := start(t, users("alice"), private("acme", "alice"), hubAt(hubCredentials(t), a, b))
	a.Fail(registrytest.Failure{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"3000"}}})
	pull(t, s, "acme", "alpine", "3.20", as("alice"))
	s.get(manifestPath("acme", "alpine", "none"), as("alice")).expect(t, http.StatusTooManyRequests, "TOOMANYREQUESTS")
	if got := a.Counts().ManifestHead + a.Counts().ManifestGet + a.Counts().BlobGet; got != 1 {
		t.Errorf("got %d requests to the endpoint that is at its limit, want 1", got)
	}
}

// TestUpstreamEndpointsMidway checks that a large blob that breaks off again and
// again at one endpoint comes from the other one.
func TestUpstreamEndpointsMidway(t *testing.T) {
	content, d := largeLayer()
	a, b := registrytest.New(t), registrytest.New(t)
	a.PutBlob("library/alpine", content)
	b.PutBlob("library/alpine", content)
	a.CutBlobs(1_000_000, 1_000)
	s := start(t, users("alice"), private("acme", "alice"), hubAt("", a, b))
	got := s.get(blobPath("acme", "alpine", string(d)), as("alice")).expect(t, http.StatusOK, "")
	if got.err != nil || digest.FromBytes(got.body) != d {
		t.Fatalf("got %d bytes, error %v; want the blob of %d bytes", len(got.body), got.err, largeSize)
	}
	if fromA, fromB := a.Counts().BlobBytes, b.Counts().BlobBytes; fromA == 0 || fromB == 0 || fromA+fromB > largeSize+1_000_000 {
		t.Errorf("got %d and %d bytes from the endpoints, want %d bytes from both", fromA, fromB, largeSize)
	}
}

// TestUpstreamEndpointsKeepTheCache checks that the cache belongs to the first
// endpoint: others can be added and removed.
func TestUpstreamEndpointsKeepTheCache(t *testing.T) {
	a, b := newMirrors(t)
	load := func(s *site, endpoints ...*registrytest.Registry) {
		s.load(users("alice"), private("acme", "alice"), hubAt(hubCredentials(t), endpoints...))
		pull(t, s, "acme", "alpine", "3.20", as("alice"))
	}
	s := newSite(t)
	load(s, a)
	a.Reset()
	load(s, a, b)
	load(s, a)
	expectRequests(t, a, "after an endpoint was added and removed", registrytest.Counts{})
	expectRequests(t, b, "as a second endpoint", registrytest.Counts{})
	load(s, b, a)
	if got := b.Counts(); got.ManifestGet != 1 || got.BlobGet != 2 {
		t.Errorf("got requests %+v to a new first endpoint, want a whole pull", got)
	}
	expectRequests(t, a, "as a second endpoint", registrytest.Counts{})
}

// TestUpstreamEndpointsArePrivate checks that the address of each endpoint is
// checked before a connection is made.
func TestUpstreamEndpointsArePrivate(t *testing.T) {
	a, b := newMirrors(t)
	lines := strings.Replace(hubAt(hubCredentials(t), a, b), "allow_private", "", 1)
	s := start(t, users("alice"), private("acme", "alice"), lines)
	s.get(manifestPath("acme", "alpine", "3.20"), as("alice")).expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	expectRequests(t, a, "at a private address", registrytest.Counts{})
	expectRequests(t, b, "at a private address", registrytest.Counts{})
	t.Setenv("SECOND", "ftp://registry.example.com")
	err := s.validate(users("alice"), private("acme", "alice"), upstreamAt("docker.io", a.URL()+" {env.SECOND}"))
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
