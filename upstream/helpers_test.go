package upstream

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/auth"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/dial"
)

const (
	dockerManifest      = "application/vnd.docker.distribution.manifest.v2+json"
	dockerManifestList  = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerSchema1       = "application/vnd.docker.distribution.manifest.v1+json"
	dockerSchema1Signed = "application/vnd.docker.distribution.manifest.v1+prettyjws"
	ociArtifact         = "application/vnd.oci.artifact.manifest.v1+json"

	testUser     = "robot"
	testPassword = "password-that-must-not-leak"
)

// client returns a client for a test registry. Each change modifies its
// configuration.
func client(t *testing.T, r *registrytest.Registry, change ...func(*Config)) *Registry {
	t.Helper()
	transport := dial.NewTransport(dial.TransportConfig{AllowPrivate: true})
	t.Cleanup(transport.CloseIdleConnections)
	config := Config{Name: "test.example", Endpoint: r.Endpoint(), Transport: transport}
	for _, f := range change {
		f(&config)
	}
	u, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// clientAt returns a client for an address.
func clientAt(t *testing.T, endpoint string, transport http.RoundTripper) *Registry {
	t.Helper()
	u, err := url.Parse(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	r, err := New(Config{Name: "test.example", Endpoint: u, Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// withLogin configures the test login.
func withLogin(c *Config) { c.Login = auth.StaticLogin(testUser, testPassword) }

// wantKind checks the kind of an error, and that its text contains no secret.
func wantKind(t *testing.T, err error, kind Kind) *Error {
	t.Helper()
	if err == nil {
		t.Fatalf("got no error, want kind %v", kind)
	}
	if got := KindOf(err); got != kind {
		t.Fatalf("got %v of kind %v, want kind %v", err, got, kind)
	}
	for _, secret := range []string{testPassword, "token-", registrytest.Signature, "that-must-not-leak", "://", "Bearer", "Basic "} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("got error %q, want no %q in it", err, secret)
		}
	}
	e, _ := err.(*Error)
	if e != nil && (e.upstream != "test.example" || !strings.Contains(err.Error(), "test.example")) {
		t.Errorf("got error %q, want the name of the upstream in it", err)
	}
	return e
}

// roundTripper implements [http.RoundTripper] by a function.
type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }
