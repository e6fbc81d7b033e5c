package caddymodule

import (
	"net/http"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestManifestThatIsNone checks that what cannot be served as a manifest gets an
// error, by tag and by digest, and that a schema 1 manifest gets a clear one.
func TestManifestThatIsNone(t *testing.T) {
	up := registrytest.New(t)
	s := start(t, users("alice"), private("acme", "alice"), hub(up))
	for name, row := range map[string]struct {
		mediaType, content string
		status             int
		code, message      string
	}{
		"page":     {v1.MediaTypeImageManifest, "<html>", http.StatusBadGateway, "UNAVAILABLE", "invalid response"},
		"null":     {v1.MediaTypeImageIndex, "null", http.StatusBadGateway, "UNAVAILABLE", "invalid response"},
		"both":     {v1.MediaTypeImageIndex, `{"schemaVersion":2,"layers":[],"manifests":[]}`, http.StatusBadGateway, "UNAVAILABLE", "invalid response"},
		"schema-1": {"application/vnd.docker.distribution.manifest.v1+prettyjws", `{"schemaVersion":1,"fsLayers":[]}`, http.StatusNotFound, "MANIFEST_UNKNOWN", "schema 1"},
	} {
		d := up.PutManifest("team/app", row.mediaType, []byte(row.content), name)
		for _, reference := range []string{name, string(d)} {
			a := s.get(manifestPath("acme", "team/app", reference), as("alice")).expect(t, row.status, row.code)
			if !strings.Contains(string(a.body), row.message) {
				t.Errorf("%s: got %s, want %q in it", reference, a.body, row.message)
			}
		}
	}
}
