package caddymodule

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

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

// BenchmarkWarmManifest measures a request for a cached manifest with all that is
// counted and logged about it, in the handler and without a connection.
func BenchmarkWarmManifest(b *testing.B) {
	up := registrytest.New(b)
	up.PutImage("library/alpine", "3.20", random(1, 1000))
	s := start(b, users("alice"), private("acme", "alice"), hub(up))
	token := s.token("alice")
	path := manifestPath("acme", "alpine", "3.20")
	s.get(path, bearer(token)).expect(b, http.StatusOK, "")
	h := runningHandler(b)
	server := new(caddyhttp.Server)
	b.ReportAllocs()
	for b.Loop() {
		w := &discardWriter{header: make(http.Header, 8)}
		r := httptest.NewRequest(http.MethodGet, s.url+path, nil)
		r.Header.Set("Authorization", "Bearer "+token)
		r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, server)
		if err := h.ServeHTTP(w, r, nil); err != nil || w.status != http.StatusOK {
			b.Fatalf("got status %d and error %v, want 200", w.status, err)
		}
	}
}
