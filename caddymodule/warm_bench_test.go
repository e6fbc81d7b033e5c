package caddymodule

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// discardWriter is a response writer that keeps the status only.
type discardWriter struct {
	header http.Header
	status int
}

func (w *discardWriter) Header() http.Header         { return w.header }
func (w *discardWriter) WriteHeader(status int)      { w.status = status }
func (w *discardWriter) Write(p []byte) (int, error) { return len(p), nil }

// dockerAccept is the Accept header of Docker's requests for manifests.
const dockerAccept = "application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json, " +
	"application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, */*"

// warmManifest starts a site that has cached a manifest, restarts it as an update
// would, and returns its handler and a function that makes requests for the manifest
// as Caddy would pass them on from Docker, each with the writer for its response.
func warmManifest(t testing.TB) (h *Handler, request func() (*discardWriter, *http.Request)) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 1000))
	lines := []string{sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up)}
	s := sitetest.Start(t, lines...)
	token, path := s.Token("alice"), sitetest.ManifestPath("acme", "alpine", "3.20")
	s.Get(path, sitetest.Bearer(token)).Expect(t, http.StatusOK, "")
	s.Restart(lines...)
	server := new(caddyhttp.Server)
	return runningHandler(t), func() (*discardWriter, *http.Request) {
		w := &discardWriter{header: http.Header{"Server": {"Caddy"}}}
		r := httptest.NewRequest(http.MethodGet, s.URL+path, nil)
		r.Header["Authorization"] = []string{"Bearer " + token}
		r.Header["Accept"] = []string{dockerAccept}
		return w, caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, server)
	}
}

// BenchmarkWarmManifest measures a request for a cached manifest with all that is
// counted and logged about it, in the handler and without a connection.
func BenchmarkWarmManifest(b *testing.B) {
	h, request := warmManifest(b)
	b.ReportAllocs()
	for b.Loop() {
		w, r := request()
		if err := h.ServeHTTP(w, r, nil); err != nil || w.status != http.StatusOK {
			b.Fatalf("got status %d and error %v, want 200", w.status, err)
		}
	}
}
