package pullthrough

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

func TestRepositoryManifestByDigest(t *testing.T) {
	f := newFixture(t)
	image := f.up.PutImage("team/app", "1", random(1, 100))
	r := f.repository("red", "team/app")
	for _, row := range []struct {
		content bool
		status  Status
		counts  registrytest.Counts
	}{
		{false, Miss, registrytest.Counts{ManifestHead: 1}},
		{false, Miss, registrytest.Counts{ManifestHead: 1}}, // what upstream only says is not recorded
		{true, Miss, registrytest.Counts{ManifestGet: 1}},
		{true, Hit, registrytest.Counts{}},
		{false, Hit, registrytest.Counts{}},
	} {
		m, err := r.ManifestByDigest(t.Context(), image.Manifest, row.content)
		f.expectManifest(m, err, "team/app", image.Manifest, row.status)
		if (m.Content != nil) != row.content {
			t.Errorf("got content %v, want %v", m.Content != nil, row.content)
		}
		f.expectCounts("content "+strconv.FormatBool(row.content), row.counts)
	}
}

// A digest is not a capability: stored content is served for a repository only
// after upstream has confirmed that the repository contains it.
func TestRepositoryManifestOfAnotherRepository(t *testing.T) {
	f := newFixture(t)
	image := f.up.PutImage("team/app", "1", random(1, 100))
	f.up.PutImage("team/copy", "1", random(1, 100))
	f.up.PutImage("team/other", "1", random(2, 100))
	m, err := f.repository("red", "team/app").ManifestByDigest(t.Context(), image.Manifest, true)
	f.expectManifest(m, err, "team/app", image.Manifest, Miss)
	f.up.Reset()
	for _, r := range []*Repository{f.repository("red", "team/copy"), f.repository("blue", "team/app")} {
		m, err = r.ManifestByDigest(t.Context(), image.Manifest, true)
		f.expectManifest(m, err, "team/app", image.Manifest, Miss)
		f.expectCounts("another repository", registrytest.Counts{ManifestHead: 1})
		m, err = r.ManifestByDigest(t.Context(), image.Manifest, true)
		f.expectManifest(m, err, "team/app", image.Manifest, Hit)
		f.expectCounts("the same again", registrytest.Counts{})
	}
	for _, withContent := range []bool{false, true} {
		_, err = f.repository("red", "team/other").ManifestByDigest(t.Context(), image.Manifest, withContent)
		expectKind(t, err, upstream.ManifestUnknown)
	}
}

// A blob that is named as a manifest is not served as one.
func TestRepositoryManifestOfBlobLink(t *testing.T) {
	f := newFixture(t)
	layer := random(1, 100)
	d := f.up.PutBlob("team/app", layer)
	r := f.repository("red", "team/app")
	f.expectBlob(r, layer, Miss)
	for _, withContent := range []bool{false, true} {
		_, err := r.ManifestByDigest(t.Context(), d, withContent)
		expectKind(t, err, upstream.ManifestUnknown)
	}
}

// Where HEAD contradicts the size that was delivered, a GET decides.
func TestRepositoryManifestHeadOfWrongSize(t *testing.T) {
	f := newFixture(t)
	image := f.up.PutImage("team/app", "1", random(1, 100))
	m, err := f.repository("red", "team/app").ManifestByTag(t.Context(), "1", true)
	f.expectManifest(m, err, "team/app", image.Manifest, Miss)
	f.up.Reset()
	f.up.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodHead {
			return false
		}
		w.Header().Set("Content-Type", v1.MediaTypeImageManifest)
		w.Header().Set("Docker-Content-Digest", string(image.Manifest))
		w.Header().Set("Content-Length", "777")
		return true
	})
	m, err = f.repository("blue", "team/app").ManifestByDigest(t.Context(), image.Manifest, false)
	f.expectManifest(m, err, "team/app", image.Manifest, Miss)
	f.expectCounts("the question", registrytest.Counts{ManifestHead: 1, ManifestGet: 1})
}

// The media type of known content is that of its document, whatever HEAD says about
// it later, or to another group.
func TestRepositoryManifestHeadOfWrongType(t *testing.T) {
	f, r, image := newPulled(t)
	f.up.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodHead {
			return false
		}
		w.Header().Set("Content-Type", v1.MediaTypeImageIndex)
		w.Header().Set("Docker-Content-Digest", string(image.Manifest))
		w.Header().Set("Content-Length", strconv.Itoa(len(f.up.RawManifest("team/app", image.Manifest))))
		return true
	})
	f.up.Reset()
	for _, r := range []*Repository{r, f.repository("blue", "team/app")} {
		for range 2 {
			for _, withContent := range []bool{false, true} {
				m, err := r.ManifestByTag(t.Context(), "1", withContent)
				if err != nil || m.MediaType != v1.MediaTypeImageManifest {
					t.Errorf("by tag: got %+v, %v, want the type %s", m, err, v1.MediaTypeImageManifest)
				}
				m, err = r.ManifestByDigest(t.Context(), image.Manifest, withContent)
				if err != nil || m.MediaType != v1.MediaTypeImageManifest {
					t.Errorf("by digest: got %+v, %v, want the type %s", m, err, v1.MediaTypeImageManifest)
				}
			}
		}
	}
	if got := f.up.Counts(); got.ManifestGet != 0 {
		t.Errorf("got requests %+v, want no GET", got)
	}
}

// An image that upstream sends as an index is served as an image.
func TestRepositoryManifestOfWrongType(t *testing.T) {
	f := newFixture(t, registrytest.WithManifestType(v1.MediaTypeImageIndex))
	image := f.up.PutImage("team/app", "1", random(1, 100))
	r := f.repository("red", "team/app")
	for range 2 {
		m, err := r.ManifestByTag(t.Context(), "1", true)
		if err != nil || m.MediaType != v1.MediaTypeImageManifest {
			t.Errorf("by tag: got %+v, %v, want the type %s", m, err, v1.MediaTypeImageManifest)
		}
		for _, withContent := range []bool{false, true} {
			m, err = r.ManifestByDigest(t.Context(), image.Manifest, withContent)
			if err != nil || m.MediaType != v1.MediaTypeImageManifest {
				t.Errorf("by digest: got %+v, %v, want the type %s", m, err, v1.MediaTypeImageManifest)
			}
		}
	}
}

func TestRepositoryManifestIsFetchedOnce(t *testing.T) {
	f := newFixture(t)
	large := []byte(`{"schemaVersion":2,"pad":"` + strings.Repeat("x", 2*largeAnswer) + `"}`)
	d := f.up.PutManifest("team/app", v1.MediaTypeImageManifest, large, "1")
	r := f.repository("red", "team/app")
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			m, err := r.ManifestByDigest(t.Context(), d, true)
			if err != nil {
				t.Error(err)
				return
			}
			defer m.Content.Close()
			if m.Content.File == nil || m.Content.Size() != int64(len(large)) {
				t.Errorf("got %d bytes, in a file: %v; want %d in a file", m.Content.Size(), m.Content.File != nil, len(large))
			}
		})
	}
	all.Wait()
	f.expectCounts("20 requests", registrytest.Counts{ManifestGet: 1})
}
