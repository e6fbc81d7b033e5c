package pullthrough

import (
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// counting makes a repository count the tags that it reports as moved.
func counting(moves *int) func(*Config) {
	return func(c *Config) {
		c.Hooks.Moved = func(_, _ string, from, to index.Ref) {
			if from.Digest != to.Digest {
				*moves++
			}
		}
	}
}

// TestPeersReportMovesOnce checks that of two processes, the one that has asked upstream
// reports that a tag has moved, unless only the other one knew the tag before.
func TestPeersReportMovesOnce(t *testing.T) {
	for name, known := range map[string]bool{"the owner knew the tag": true, "the owner is new": false} {
		t.Run(name, func(t *testing.T) {
			c := newCluster(t)
			var owners, mine int
			c.node.of = c.owner.repository("red", "team/app", ofPeer, counting(&owners))
			first := c.member(counting(&mine))
			if !known {
				first = c.member(asking(), counting(&mine))
			}
			m, err := first.ManifestByTag(t.Context(), "1", true)
			c.expectManifest(m, err, "team/app", c.image.Manifest, Miss)
			moved := c.up.PutImage("team/app", "1", random(2, 1000))
			forced := c.member(counting(&mine), func(c *Config) { c.Forced = true })
			for range 2 {
				c.age("1")
				m, err = forced.ManifestByTag(t.Context(), "1", true)
				c.expectManifest(m, err, "team/app", moved.Manifest, Revalidated)
			}
			if wantOwners := map[bool]int{true: 1}[known]; owners != wantOwners || mine != 1-wantOwners {
				t.Errorf("the owner has reported %d moves and the other process %d, want %d and %d", owners, mine, wantOwners, 1-wantOwners)
			}
		})
	}
}

// TestPeersBriefFreshness checks that peers are not asked about tags that are fresh for no
// longer than the least age of an answer, and are asked for their content.
func TestPeersBriefFreshness(t *testing.T) {
	for _, fresh := range []time.Duration{0, MinAge} {
		c := newCluster(t)
		own := c.owner.repository("red", "team/app")
		_, err := own.ManifestByTag(t.Context(), "1", true)
		if err != nil {
			t.Fatal(err)
		}
		c.up.Reset()
		m, err := c.member(freshFor(fresh)).ManifestByTag(t.Context(), "1", true)
		c.expectManifest(m, err, "team/app", c.image.Manifest, Miss)
		for _, q := range c.node.asked {
			if q.Reference == "1" {
				t.Errorf("fresh for %v: a peer was asked %+v, want no question about the tag", fresh, q)
			}
		}
		c.expectQuestions("a pull", 1, 0, 0)
		c.expectCounts("a pull", registrytest.Counts{ManifestHead: 1})
	}
}

// TestPeersSendColdTags checks that the content of a cold tag counts as that of a peer,
// whatever the client accepts, and after that as stored.
func TestPeersSendColdTags(t *testing.T) {
	for _, accept := range []string{"", "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json"} {
		c := newCluster(t)
		red := c.member(accepting(accept))
		for _, want := range []Status{Miss, Hit} {
			m, err := red.ManifestByTag(t.Context(), "1", true)
			c.expectManifest(m, err, "team/app", c.image.Manifest, want)
			if ofPeer := m.Content.FromPeer; ofPeer != (want == Miss) {
				t.Errorf("Accept %q, status %v: got content of a peer: %v", accept, want, ofPeer)
			}
		}
	}
}
