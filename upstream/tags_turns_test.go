package upstream

import (
	"io"
	"net/http"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestRegistryTagsDelayNoManifests checks that lists that are read slowly do not delay
// manifests, and that a huge list is parsed before the next one is read.
func TestRegistryTagsDelayNoManifests(t *testing.T) {
	r := registrytest.New(t)
	d := r.PutManifest("a", v1.MediaTypeImageIndex, []byte(`{"schemaVersion":2,"manifests":[],"pad":"`+strings.Repeat("x", 2*smallRead)+`"}`))
	u := client(t, r)
	for range maxListReads {
		u.listReads <- struct{}{}
	}
	if _, err := u.Manifest(t.Context(), "a", d.String()); err != nil {
		t.Errorf("got %v while lists are being read, want the manifest", err)
	}
	<-u.listReads
	for range maxLargeReads {
		u.largeReads <- struct{}{}
	}
	content := `{"tags":["` + strings.Repeat("x", MaxManifest) + `"]}`
	resp := &response{&http.Response{StatusCode: http.StatusOK, ContentLength: -1, Body: io.NopCloser(strings.NewReader(content))}, nil}
	_, err := u.readList(t.Context(), new(call), resp, func(read []byte) ([]byte, error) {
		if len(read) != len(content) || len(u.hugeReads) != 1 {
			t.Errorf("got %d bytes in %d turns, want %d in one", len(read), len(u.hugeReads), len(content))
		}
		return read, nil
	})
	if err != nil || len(u.hugeReads) != 0 {
		t.Errorf("got %v and %d turns, want none", err, len(u.hugeReads))
	}
}
