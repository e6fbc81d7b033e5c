package upstream

import (
	"net/http"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

func TestParseAccept(t *testing.T) {
	const all = v1.MediaTypeImageIndex + "," + v1.MediaTypeImageManifest + "," + dockerManifestList + "," + dockerManifest
	for _, row := range []struct {
		values []string
		want   string
	}{
		{nil, ""},
		{[]string{""}, ""},
		{[]string{all}, ""},
		{[]string{dockerManifest}, "d"},
		{[]string{dockerManifest, v1.MediaTypeImageManifest}, "md"},
		{[]string{dockerManifest, v1.MediaTypeImageManifest, dockerManifestList, dockerSchema1, "application/json", v1.MediaTypeImageIndex}, ""},
		{[]string{" Application/vnd.docker.distribution.manifest.v2+JSON ; q=0.5 , application/json"}, "d"},
		{[]string{dockerManifest + ", */*"}, ""},
		{[]string{dockerManifest + ",application/*;q=0.1"}, ""},
		{[]string{dockerManifest + ", */*;q=0"}, "d"},
		{[]string{all + ";q=0.0"}, "iml"},
		{[]string{all + "; Q=0"}, "iml"},
		{[]string{all + ";q=0.01"}, ""},
		{[]string{ociArtifact, "application/json", "text/html"}, ""},
		{[]string{"text/html,application/xhtml+xml,*/*;q=0.8"}, ""},
	} {
		a := ParseAccept(row.values)
		if a.String() != row.want {
			t.Errorf("%q: got %q, want %q", row.values, a, row.want)
		}
		if !a.Accepts(ociArtifact) || !a.Accepts("application/vnd.example.thing.v1+json") {
			t.Errorf("%q: got types excluded between which there is no choice", row.values)
		}
	}
	a := ParseAccept([]string{dockerManifest, v1.MediaTypeImageIndex})
	for mediaType, want := range map[string]bool{dockerManifest: true, v1.MediaTypeImageIndex: true, dockerManifestList: false, v1.MediaTypeImageManifest: false} {
		if got := a.Accepts(mediaType); got != want || !Accept(0).Accepts(mediaType) {
			t.Errorf("%s: got %v, want %v", mediaType, got, want)
		}
	}
}

// TestRegistryAccept checks that a registry is asked for what a client accepts, and
// that what it then does not have does not hide what it has.
func TestRegistryAccept(t *testing.T) {
	r := registrytest.New(t)
	index := r.PutIndex("a", "1", r.PutImage("a", "", []byte("x")))
	docker := r.PutManifest("a", dockerManifest, []byte(`{"schemaVersion":2,"mediaType":"`+dockerManifest+`","config":{},"layers":[]}`))
	r.Offer("a", "1", docker)
	u := client(t, r)
	one := ParseAccept([]string{dockerManifest})
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
