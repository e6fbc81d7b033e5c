package upstream

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/dial"
)

func TestRegistryRedirectErrors(t *testing.T) {
	const secret = "/x?" + registrytest.Signature + "=that-must-not-leak"
	for _, test := range []struct {
		name, location string
		kind           Kind
		requests       int
	}{
		{"endless", secret, Invalid, maxRedirects + 1},
		{"no location", "", Invalid, 1},
		{"scheme", "ftp://h" + secret, Invalid, 1},
		{"unparsable", "http://h:port" + secret, Invalid, 1},
		{"closed port", "http://127.0.0.1:1" + secret, Unavailable, 1},
		{"user info", "http://u:that-must-not-leak@127.0.0.1:1" + secret, Unavailable, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			requests := 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
				requests++
				if test.location != "" {
					w.Header().Set("Location", test.location)
				}
				w.WriteHeader(http.StatusFound)
			}))
			t.Cleanup(server.Close)
			_, err := clientAt(t, server.URL, dial.NewTransport(dial.TransportConfig{AllowPrivate: true})).Manifest(t.Context(), "a", "1")
			wantKind(t, err, test.kind)
			if requests != test.requests {
				t.Errorf("got %d requests, want %d", requests, test.requests)
			}
		})
	}
}

// TestRegistryRedirectToPlainHTTP checks that a redirect from https to plain http is
// followed for a blob, but not for content that has no digest to check.
func TestRegistryRedirectToPlainHTTP(t *testing.T) {
	r := registrytest.New(t, registrytest.WithTLS(), registrytest.WithBlobRedirect())
	r.PutImage("a", "1", []byte("x"))
	u := client(t, r, func(c *Config) { c.Transport = r.Transport() })
	b, err := u.Blob(t.Context(), "a", digestOf("x"), 0, -1, "")
	if err != nil {
		t.Fatal(err)
	}
	_ = b.Close()
	r.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
		http.Redirect(w, req, "http://"+r.StorageHost()+"/manifest", http.StatusFound)
		return true
	})
	r.Reset()
	_, err = u.Manifest(t.Context(), "a", "1")
	wantKind(t, err, Invalid)
	if got := r.Counts(); got.Storage != 0 {
		t.Errorf("got requests %+v, want none to the storage", got)
	}
}
