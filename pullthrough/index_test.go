package pullthrough

import (
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// The image of an index costs one GET, and no HEAD.
func TestRepositoryIndex(t *testing.T) {
	f := newFixture(t)
	image := f.up.PutImage("team/app", "", random(1, 100))
	index := f.up.PutIndex("team/app", "1", image, f.up.PutImage("team/app", "", random(2, 100)))
	r := f.repository("red", "team/app")
	m, err := r.ManifestByTag(t.Context(), "1", true)
	f.expectManifest(m, err, "team/app", index, Miss)
	m, err = r.ManifestByDigest(t.Context(), image.Manifest, true)
	f.expectManifest(m, err, "team/app", image.Manifest, Miss)
	f.expectCounts("the pull", registrytest.Counts{ManifestHead: 1, ManifestGet: 2})
}

// An index gives no access to what it names. Registries accept indexes of manifests
// that they do not have, so whoever can push to one repository could name the
// manifests, and then the layers, of another.
func TestRepositoryIndexGrantsNoAccess(t *testing.T) {
	f := newFixture(t)
	secret := f.up.PutImage("team/secret", "1", random(1, 100))
	m, err := f.repository("red", "team/secret").ManifestByTag(t.Context(), "1", true)
	f.expectManifest(m, err, "team/secret", secret.Manifest, Miss)
	f.expectBlob(f.repository("red", "team/secret"), random(1, 100), Miss)

	index := f.up.PutManifest("team/evil", v1.MediaTypeImageIndex, []byte(`{"schemaVersion":2,"manifests":[{"mediaType":"`+
		v1.MediaTypeImageManifest+`","size":500,"digest":"`+string(secret.Manifest)+`"}]}`), "1")
	image := f.up.PutManifest("team/evil", v1.MediaTypeImageManifest, []byte(`{"schemaVersion":2,"config":{},"layers":[{"size":100,"digest":"`+
		string(secret.Layers[0])+`"}]}`), "2")
	for _, group := range []string{"red", "blue"} {
		r := f.repository(group, "team/evil")
		m, err := r.ManifestByTag(t.Context(), "1", true)
		f.expectManifest(m, err, "team/evil", index, Miss)
		m, err = r.ManifestByTag(t.Context(), "2", true)
		f.expectManifest(m, err, "team/evil", image, Miss)
		for _, withContent := range []bool{false, true} {
			_, err = r.ManifestByDigest(t.Context(), secret.Manifest, withContent)
			expectKind(t, err, upstream.ManifestUnknown)
		}
		_, _, err = r.Blob(t.Context(), secret.Layers[0])
		expectKind(t, err, upstream.BlobUnknown)
	}
}
