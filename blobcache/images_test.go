package blobcache

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// TestSweepRemovesWholeImages checks that a sweep that needs the space of one layer removes
// the whole image of that layer, except the layers that a later image uses.
func TestSweepRemovesWholeImages(t *testing.T) {
	g := newImageFixture(t, Limits{})
	pull := func(name string, layers ...string) digest.Digest {
		var parts []digest.Digest
		for _, layer := range layers {
			parts = append(parts, g.layer(layer, 10_000))
		}
		d := g.naming(name, false, parts...)
		g.now = g.now.Add(time.Minute)
		g.squeeze(100_000)
		return d
	}
	first := pull("m1", "base", "a1", "b1")
	pull("m2", "a2", "b2")
	pull("m3", "base", "a3", "b3")
	g.expect("base a1 b1 m1 a2 b2 m2 a3 b3 m3")
	g.head(first) // as Docker does for a second pull
	g.now = g.now.Add(time.Minute)
	pull("m4", "a4", "b4", "c4")
	g.expect("base a1 b1 m1 a3 b3 m3 a4 b4 c4 m4")
	pull("m5", "a5", "b5")
	g.expect("base a1 b1 m1 a4 b4 c4 m4 a5 b5 m5")
	pull("m6", "a6", "b6", "c6")
	g.expect("a4 b4 c4 m4 a5 b5 m5 a6 b6 c6 m6")
}

// TestUseOfIndexSparesImages checks that a request for the digest of an index alone is a
// use of everything that the index names, at any depth.
func TestUseOfIndexSparesImages(t *testing.T) {
	g := newImageFixture(t, Limits{UnusedFor: 90 * 24 * time.Hour})
	g.now = time.Now().Add(-100 * 24 * time.Hour)
	amd64 := g.naming("amd64", false, g.layer("la", 100), g.layer("ca", 20))
	arm64 := g.naming("arm64", false, g.layer("lb", 100))
	index := g.naming("index", true, amd64, arm64, digest.FromString("never pulled"))
	g.naming("other", false, g.layer("lo", 100))
	g.naming("nested", true, g.naming("inner", true, index))
	g.cache.evictor.writeUses(t.Context())
	g.now = time.Now().Add(-time.Hour)
	g.head(index)
	sweep(t, g.cache)
	g.expect("la ca amd64 lb arm64 index")
}

// TestEvictSparesContentUsedSinceSurvey checks that evict keeps an image, with its parts,
// that a client has asked for since the survey.
func TestEvictSparesContentUsedSinceSurvey(t *testing.T) {
	g := newImageFixture(t, Limits{MaxSize: 1_000_000})
	one := g.naming("one", false, g.layer("l1", 1000))
	g.now = g.now.Add(time.Hour)
	g.naming("two", false, g.layer("l2", 1000))
	k := g.cache.evictor
	k.writeUses(t.Context())
	s, err := k.survey(t.Context(), 1_000_000)
	if err != nil {
		t.Fatal(err)
	}
	g.cache.Used(one)
	k.evict(t.Context(), s)
	g.expect("one l1")
}

// TestEvictSparesContentInUse checks that a sweep keeps content while a client reads it,
// however long that takes.
func TestEvictSparesContentInUse(t *testing.T) {
	g := newImageFixture(t, Limits{UnusedFor: time.Hour})
	d := g.layer("read", 1000)
	g.layer("not read", 1000)
	r, _, err := g.cache.Get(t.Context(), fill.Request{Digest: d, Size: 1000})
	if err != nil {
		t.Fatal(err)
	}
	g.cache.evictor.writeUses(t.Context())
	for d := range g.names {
		if err := g.store.Touch(t.Context(), d, g.now); err != nil {
			t.Fatal(err)
		}
	}
	sweep(t, g.cache)
	g.expect("read")
	for range 2 {
		_ = r.Close()
	}
	sweep(t, g.cache)
	g.expect("read") // used until the reader was closed
	if err := g.store.Touch(t.Context(), d, g.now); err != nil {
		t.Fatal(err)
	}
	sweep(t, g.cache)
	g.expect("")
	if n := len(g.cache.evictor.reading); n != 0 {
		t.Errorf("got %d contents being read, want 0", n)
	}
}

// TestSweepLeavesNoHalfImages checks that a sweep never removes only some of the parts of a
// complete image. It pulls, asks for and evicts images that share layers at random.
func TestSweepLeavesNoHalfImages(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel() // most of the time goes into waiting for the disk
			rnd := rand.New(rand.NewPCG(seed, 7))
			g := newImageFixture(t, Limits{})
			var roots []digest.Digest
			for range 60 {
				g.now = g.now.Add(time.Duration(rnd.IntN(90*60)) * time.Second)
				if len(roots) > 0 && rnd.IntN(3) == 0 {
					g.head(roots[rnd.IntN(len(roots))])
				} else {
					roots = append(roots, g.randomImage(rnd, len(roots)))
				}
				if rnd.IntN(3) > 0 {
					continue
				}
				if rnd.IntN(2) == 0 {
					g.cache.evictor.writeUses(t.Context())
					continue
				}
				before := g.images()
				g.squeeze(int64(20_000 + rnd.IntN(40_000)))
				for d, whole := range g.images() {
					if before[d] && !whole {
						t.Fatalf("the sweep removed a part of %s, want all of its parts stored", g.names[d])
					}
				}
			}
		})
	}
}

// randomImage pulls an image, or an index of two images, of new and stored layers.
func (g *imageFixture) randomImage(rnd *rand.Rand, n int) digest.Digest {
	image := func(name string) digest.Digest {
		var layers []digest.Digest
		for range 1 + rnd.IntN(4) {
			layers = append(layers, g.layer(fmt.Sprintf("layer%d", rnd.IntN(30)), 1000+rnd.IntN(2)*1500))
			g.now = g.now.Add(time.Duration(rnd.IntN(20)) * time.Second)
		}
		return g.naming(name, false, layers...)
	}
	one := image(fmt.Sprintf("image%d", n))
	if rnd.IntN(3) > 0 {
		return one
	}
	return g.naming(fmt.Sprintf("index%d", n), true, one, image(fmt.Sprintf("second%d", n)))
}
