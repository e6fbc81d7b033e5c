package pullthrough

import (
	"maps"
	"net/http"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestMovedIndexComesWithItsImages checks that an index that has moved is served only
// once the images have come for the platforms that were pulled before.
func TestMovedIndexComesWithItsImages(t *testing.T) {
	f := newFixture(t)
	put := func(version byte) (index digest.Digest, amd64, arm64 registrytest.Image) {
		amd64, arm64 = f.up.PutImage("team/app", "", random(version, 100)), f.up.PutImage("team/app", "", random(version+100, 100))
		return f.up.PutIndex("team/app", "1", amd64, arm64), amd64, arm64
	}
	old, _, pulled := put(1)
	r := f.repository("red", "team/app", freshFor(0))
	m, err := r.ManifestByTag(t.Context(), "1", true)
	f.expectManifest(m, err, "team/app", old, Miss)
	m, err = r.ManifestByDigest(t.Context(), pulled.Manifest, true)
	f.expectManifest(m, err, "team/app", pulled.Manifest, Miss)
	f.up.Reset()

	moved, other, next := put(2)
	m, err = r.ManifestByTag(t.Context(), "1", true)
	f.expectManifest(m, err, "team/app", moved, Revalidated)
	m, err = r.ManifestByDigest(t.Context(), next.Manifest, true)
	f.expectManifest(m, err, "team/app", next.Manifest, Hit)
	f.expectCounts("the index and one image", registrytest.Counts{ManifestHead: 1, ManifestGet: 2})
	m, err = r.ManifestByDigest(t.Context(), other.Manifest, true)
	f.expectManifest(m, err, "team/app", other.Manifest, Miss)

	_, _, missing := put(3)
	f.up.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
		fails := req.URL.Path == "/v2/team/app/manifests/"+string(missing.Manifest)
		if fails {
			w.WriteHeader(http.StatusTooManyRequests)
		}
		return fails
	})
	m, err = r.ManifestByTag(t.Context(), "1", true)
	f.expectManifest(m, err, "team/app", moved, Stale)

	f = newFixture(t)
	r = f.repository("red", "team/app", freshFor(0))
	old, _, pulled = put(1)
	m, err = r.ManifestByTag(t.Context(), "1", true)
	f.expectManifest(m, err, "team/app", old, Miss)
	m, err = r.ManifestByDigest(t.Context(), pulled.Manifest, true)
	f.expectManifest(m, err, "team/app", pulled.Manifest, Miss)
	moved, _, missing = put(2) // and upstream does not have one of its images
	f.up.DeleteManifest("team/app", missing.Manifest)
	m, err = r.ManifestByTag(t.Context(), "1", true)
	f.expectManifest(m, err, "team/app", moved, Revalidated)
}

// TestPlatformsOfIndex checks which manifests of an index are images for a platform.
func TestPlatformsOfIndex(t *testing.T) {
	f := newFixture(t)
	image, other := digest.FromString("image"), digest.FromString("other")
	content := []byte(`{"manifests":[
		{"digest":"` + string(image) + `","platform":{"os":"linux","architecture":"arm","variant":"v7"}},
		{"digest":"` + string(other) + `","platform":{"os":"unknown","architecture":"unknown"}},
		{"digest":"` + string(other) + `","platform":{"architecture":"amd64"}},
		{"digest":"sha256:x","platform":{"os":"linux","architecture":"amd64"}},
		{"digest":"` + string(other) + `"}],
		"layers":[{"digest":"` + string(other) + `","platform":{"os":"linux","architecture":"s390x"}}]}`)
	d := digest.FromBytes(content)
	if err := f.config.Cache.PutBytes(t.Context(), d, content); err != nil {
		t.Fatal(err)
	}
	want := map[Platform]digest.Digest{{OS: "linux", Architecture: "arm", Variant: "v7"}: image}
	if got := f.repository("red", "team/app").platforms(t.Context(), d); !maps.Equal(got, want) {
		t.Errorf("got the images %v, want %v", got, want)
	}
}
