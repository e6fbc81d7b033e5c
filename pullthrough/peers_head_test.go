package pullthrough

import (
	"errors"
	"io/fs"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// warmOwner returns a cluster whose owner has the image, and no requests counted.
func warmOwner(t *testing.T) *cluster {
	c := newCluster(t)
	own := c.owner.repository("red", "team/app")
	if _, err := own.ManifestByTag(t.Context(), "1", true); err != nil {
		t.Fatal(err)
	}
	c.owner.expectBlob(own, c.layer, Miss)
	c.owner.awaitFills()
	c.up.Reset()
	return c
}

// TestPeersAnswerHeads checks that for a HEAD, a peer that has the content answers for
// upstream whether the repository contains it, and how large it is.
func TestPeersAnswerHeads(t *testing.T) {
	c := warmOwner(t)
	red := c.member()
	want, err := c.owner.repository("red", "team/app").ManifestByDigest(t.Context(), c.image.Manifest, false)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // nothing is recorded of content that is not here
		m, err := red.ManifestByDigest(t.Context(), c.image.Manifest, false)
		if err != nil || m.MediaType != want.MediaType || m.Size != want.Size || m.Status != Miss {
			t.Errorf("got %+v and the error %v, want the type and the size of %+v and a miss", m, err, want)
		}
		size, status, err := red.StatBlob(t.Context(), c.image.Layers[0])
		if err != nil || size != int64(len(c.layer)) || status != Miss {
			t.Errorf("got the size %d, the status %v and the error %v, want %d and a miss", size, status, err, len(c.layer))
		}
	}
	c.expectQuestions("two HEADs of each", 4, 0, 0)
	c.expectCounts("two HEADs of each", registrytest.Counts{})
}

// TestPeersConfirmStoredContent checks that a peer answers for upstream whether another
// repository contains content that is stored here.
func TestPeersConfirmStoredContent(t *testing.T) {
	c := warmOwner(t)
	blue := c.repository("blue", "team/app")
	m, err := blue.ManifestByDigest(t.Context(), c.image.Manifest, true)
	c.expectManifest(m, err, "team/app", c.image.Manifest, Miss)
	c.expectBlob(blue, c.layer, Miss)
	c.awaitFills()
	c.up.Reset()
	red := c.member()
	m, err = red.ManifestByDigest(t.Context(), c.image.Manifest, true)
	c.expectManifest(m, err, "team/app", c.image.Manifest, Miss)
	c.expectBlob(red, c.layer, Miss)
	c.expectQuestions("content that is stored for another group", 2, 0, 0)
	c.expectCounts("content that is stored for another group", registrytest.Counts{})
	for _, d := range []digest.Digest{c.image.Manifest, c.image.Layers[0]} {
		if _, err := c.config.Index.Link(t.Context(), red.config.Scope, d); err != nil {
			t.Errorf("%s: got the error %v, want a link", d, err)
		}
	}
}

// TestPeersLieAboutHeads checks that upstream is asked if the answer of a peer is of no use.
func TestPeersLieAboutHeads(t *testing.T) {
	for name, row := range map[string]struct {
		change func(*Answer, *error)
		blamed int
	}{
		"another digest": {func(a *Answer, _ *error) { a.Digest = digest.FromString("other") }, 2},
		"no size":        {func(a *Answer, _ *error) { a.Size = -1 }, 1}, // a blob may have none
		"absent":         {func(_ *Answer, err *error) { *err = fs.ErrNotExist }, 0},
		"down":           {func(_ *Answer, err *error) { *err = errors.New("connection refused") }, 2},
	} {
		t.Run(name, func(t *testing.T) {
			c := warmOwner(t)
			c.node.change = func(_ Question, a *Answer, err *error) { row.change(a, err) }
			red := c.member()
			if m, err := red.ManifestByDigest(t.Context(), c.image.Manifest, false); err != nil || m.Size <= 0 {
				t.Errorf("got the size %d and the error %v of a manifest, want that of upstream", m.Size, err)
			}
			if size, _, err := red.StatBlob(t.Context(), c.image.Layers[0]); err != nil || size != int64(len(c.layer)) {
				t.Errorf("got the size %d and the error %v of a blob, want %d", size, err, len(c.layer))
			}
			c.expectQuestions("HEADs", 2, 0, row.blamed)
			c.expectCounts("HEADs", registrytest.Counts{ManifestHead: 1, BlobHead: 1})
		})
	}
}

// TestPeersHeadsOfDeniedScope checks that a peer confirms nothing that upstream denies, although
// it has the content for others.
func TestPeersHeadsOfDeniedScope(t *testing.T) {
	c := warmOwner(t)
	c.up.PutBlob("team/other", random(9, 10))
	blue := &node{of: c.owner.repository("blue", "team/other", ofPeer)}
	mine := c.repository("blue", "team/other", asking(blue))
	_, _, err := mine.StatBlob(t.Context(), c.image.Layers[0])
	expectKind(t, err, upstream.BlobUnknown)
	_, err = mine.ManifestByDigest(t.Context(), c.image.Manifest, false)
	expectKind(t, err, upstream.ManifestUnknown)
}
