package pullthrough

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// A blob whose size a manifest of the repository tells is asked for without a range
// if one connection suffices for it.
func TestSizesSpareRanges(t *testing.T) {
	f := newFixture(t)
	f.config.Sizes = NewSizes()
	layer := random(1, 50_000)
	image := f.up.PutImage("team/app", "1", layer)
	connections := func(c *Config) { c.Connections = 4 }
	r := f.repository("red", "team/app", connections)
	if _, err := r.ManifestByTag(t.Context(), "1", true); err != nil {
		t.Fatal(err)
	}
	f.expectBlob(r, layer, Miss)
	f.expectBlob(r, f.up.RawBlob("team/app", image.Config), Miss)
	if got := f.up.Ranges(); !slices.Equal(got, []string{"", ""}) {
		t.Errorf("got the ranges %q, want none", got)
	}
	f.up.Reset()
	other := f.up.PutBlob("team/app", random(2, 50_000))
	f.expectBlob(r, f.up.RawBlob("team/app", other), Miss)
	if got := f.up.Ranges(); !slices.Equal(got, []string{"bytes=0-33554431"}) {
		t.Errorf("a blob of unknown size: got the ranges %q, want the first 32 MiB", got)
	}
}

// A manifest that is served from the cache tells its sizes too, as after a restart.
func TestSizesOfStoredManifest(t *testing.T) {
	f := newFixture(t, registrytest.WithoutHead())
	layer := random(1, 1000)
	image := f.up.PutImage("team/app", "1", layer)
	r := f.repository("red", "team/app")
	if _, err := r.ManifestByTag(t.Context(), "1", true); err != nil {
		t.Fatal(err)
	}
	f.config.Sizes = NewSizes()
	r = f.repository("red", "team/app")
	if m, err := r.ManifestByTag(t.Context(), "1", true); err != nil || m.Status != Hit {
		t.Fatalf("got %+v, %v, want a hit", m, err)
	}
	if got := f.config.Sizes.of(r.config.Scope, image.Layers[0]); got != 1000 {
		t.Errorf("got size %d, want 1000", got)
	}
}

func TestSizes(t *testing.T) {
	s := NewSizes()
	layer, config, child := digest.FromString("layer"), digest.FromString("config"), digest.FromString("child")
	manifest := func(layerSize int) []byte {
		return fmt.Appendf(nil, `{"layers":[{"digest":%q,"size":%d},{"digest":"sha256:short","size":1}],"config":{"digest":%q,"size":-2},`+
			`"manifests":[{"digest":%q,"size":9}]}`, layer, layerSize, config, child)
	}
	s.remember("a", "sha256:1", manifest(5))
	s.remember("a", "sha256:1", manifest(6)) // known already
	for d, want := range map[digest.Digest]int64{layer: 5, config: 0, child: 0, "sha256:short": 0} {
		if got := s.of("a", d); got != want {
			t.Errorf("%s: got %d, want %d", d, got, want)
		}
	}
	if got := s.of("b", layer); got != 0 {
		t.Errorf("another scope: got %d, want 0", got)
	}
	s.remember("a", "sha256:2", []byte("no manifest"))
	for i := range maxSizes {
		s.known.Add(sizeKey{"b", digest.Digest(fmt.Sprint(i))}, 1)
		s.of("a", layer) // stays in use
	}
	if s.remember("a", "sha256:1", manifest(7)); s.of("a", layer) != 0 || s.known.Len() != maxSizes {
		t.Errorf("got %d and %d entries, want the manifest to be read again and to contradict, and %d entries", s.of("a", layer), s.known.Len(), maxSizes)
	}
	(*Sizes)(nil).remember("a", "sha256:1", manifest(5))
	if got := (*Sizes)(nil).of("a", layer); got != 0 {
		t.Errorf("nil: got %d, want 0", got)
	}
}

// Manifests of one repository that differ about a size tell none, whichever comes last:
// whoever pushes another tag must not break the transfers of an image that is right.
func TestSizesThatContradict(t *testing.T) {
	layer, large := digest.FromString("layer"), digest.FromString("large")
	manifest := func(d digest.Digest, size any) []byte {
		return fmt.Appendf(nil, `{"layers":[{"digest":%q,"size":%v}]}`, d, size)
	}
	s := NewSizes()
	for i, size := range []int64{5, 5, 6, 5} {
		s.remember("a", digest.FromString(fmt.Sprint(i)), manifest(layer, size))
		if got, want := s.of("a", layer), []int64{5, 5, 0, 0}[i]; got != want {
			t.Errorf("manifest %d: got %d, want %d", i, got, want)
		}
	}
	for i, size := range []any{int64(math.MaxInt64), "1e99", `"5"`, "5.5", -1} {
		s.remember("a", digest.FromString(fmt.Sprint("large", i)), manifest(large, size))
		if got := s.of("a", large); got != 0 {
			t.Errorf("size %v: got %d, want 0", size, got)
		}
	}
}

// A size that is no number does not hide what the manifest names.
func TestChildrenWithWrongSize(t *testing.T) {
	layer, config := digest.FromString("layer"), digest.FromString("config")
	children := Children(strings.NewReader(fmt.Sprintf(`{"layers":[{"digest":%q,"size":"5"}],"config":{"digest":%q,"size":1e3}}`, layer, config)))
	if len(children) != 2 || children[0].Digest != layer || children[1].Digest != config {
		t.Errorf("got %v, want the layer and the config", children)
	}
}
