package upstream

import (
	"net/http"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/mediatype"
)

// TestRegistryAccept checks that a registry is asked for what a client accepts, and
// that what it then does not have does not hide what it has.
func TestRegistryAccept(t *testing.T) {
	r := registrytest.New(t)
	index := r.PutIndex("a", "1", r.PutImage("a", "", []byte("x")))
	docker := r.PutManifest("a", dockerManifest, []byte(`{"schemaVersion":2,"mediaType":"`+dockerManifest+`","config":{},"layers":[]}`))
	r.Offer("a", "1", docker)
	u := client(t, r)
	one := mediatype.ParseAccept([]string{dockerManifest})
	for range 2 {
		if m, err := u.ResolveManifest(t.Context(), "a", "1"); err != nil || m.Digest != index {
			t.Errorf("any: got %+v, %v, want %s", m.Descriptor, err, index)
		}
		if m, err := u.ResolveTag(t.Context(), "a", "1", one); err != nil || m.Digest != docker {
			t.Errorf("one: got %+v, %v, want %s", m.Descriptor, err, docker)
		}
		if m, err := u.RefetchTag(t.Context(), "a", "1", one); err != nil || m.Digest != docker {
			t.Errorf("one, again: got %+v, %v, want %s", m.Descriptor, err, docker)
		}
	}
	r.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
		if req.Header.Get("Accept") == dockerManifest {
			w.WriteHeader(http.StatusNotFound)
			return true
		}
		return false
	})
	for range 2 {
		_, err := u.ResolveTag(t.Context(), "a", "1", one)
		wantKind(t, err, ManifestUnknown)
		if m, err := u.ResolveManifest(t.Context(), "a", "1"); err != nil || m.Digest != index {
			t.Errorf("any: got %+v, %v, want %s", m.Descriptor, err, index)
		}
	}
}
