package pullthrough

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// TestPeersLie checks that upstream is asked if a peer answers wrongly, or with nothing
// that counts.
func TestPeersLie(t *testing.T) {
	other := []byte(`{"schemaVersion":2,"mediaType":"` + v1.MediaTypeImageManifest + `","config":{},"layers":[]}`)
	for name, c := range map[string]struct {
		change func(*Answer, *error)
		blamed bool
	}{
		"other bytes":         {func(a *Answer, _ *error) { a.Content = bytes.Replace(a.Content, []byte("{"), []byte("{ "), 1) }, true},
		"no bytes":            {func(a *Answer, _ *error) { a.Content = nil }, true},
		"another type":        {func(a *Answer, _ *error) { a.Content = []byte("<html>"); a.Digest = digest.FromBytes(a.Content) }, true},
		"an invalid digest":   {func(a *Answer, _ *error) { a.Digest = "sha256:1" }, true},
		"down":                {func(_ *Answer, err *error) { *err = errors.New("connection refused") }, true},
		"absent":              {func(_ *Answer, err *error) { *err = fs.ErrNotExist }, false},
		"an old confirmation": {func(a *Answer, _ *error) { a.Age = 2 * time.Hour }, false},
		"of the future":       {func(a *Answer, _ *error) { a.Age = -time.Hour }, false},
	} {
		t.Run(name, func(t *testing.T) {
			cl := newCluster(t)
			cl.node.change = func(_ Question, a *Answer, err *error) { c.change(a, err) }
			red := cl.member()
			m, err := red.ManifestByTag(t.Context(), "1", true)
			cl.expectManifest(m, err, "team/app", cl.image.Manifest, Miss)
			manifests, _, failed := cl.node.questions()
			if (failed > 0) != c.blamed || manifests != 1+1 {
				t.Errorf("the peer was asked %d times and failed %d times, want twice, and failures: %v", manifests, failed, c.blamed)
			}
			if _, err := cl.config.Index.Link(t.Context(), red.config.Scope, digest.FromBytes(other)); err == nil {
				t.Error("there is a link to content that upstream has not sent")
			}
		})
	}
}

// TestPeersOfDeniedScope checks that a peer vouches for nothing that upstream denies, although
// it has the content for others.
func TestPeersOfDeniedScope(t *testing.T) {
	c := newCluster(t)
	own := c.owner.repository("red", "team/app")
	_, err := own.ManifestByTag(t.Context(), "1", true)
	if err != nil {
		t.Fatal(err)
	}
	c.owner.expectBlob(own, c.layer, Miss)
	c.up.PutBlob("team/other", random(9, 10))
	blue := &node{of: c.owner.repository("blue", "team/other", ofPeer)}
	mine := c.repository("blue", "team/other", asking(blue))
	_, _, err = mine.Blob(t.Context(), c.image.Layers[0])
	expectKind(t, err, upstream.BlobUnknown)
	_, err = mine.ManifestByDigest(t.Context(), c.image.Manifest, true)
	expectKind(t, err, upstream.ManifestUnknown)
	if _, _, failed := blue.questions(); failed != 0 {
		t.Errorf("the peer is blamed %d times, want never", failed)
	}
}

// TestPeersOffline checks that a process whose upstream is offline has content from peers.
func TestPeersOffline(t *testing.T) {
	c := newCluster(t)
	offline, err := upstream.New(upstream.Config{Name: "hub", Endpoint: c.up.Endpoint(), Offline: true})
	if err != nil {
		t.Fatal(err)
	}
	red := c.member(func(c *Config) { c.Registry = upstream.NewMirrors(offline) })
	if m, err := red.ManifestByDigest(t.Context(), c.image.Manifest, false); err != nil || m.Size <= 0 {
		t.Errorf("HEAD of a manifest: got the size %d and the error %v, want a size and no error", m.Size, err)
	}
	if size, _, err := red.StatBlob(t.Context(), c.image.Layers[0]); err != nil || size != int64(len(c.layer)) {
		t.Errorf("HEAD of a blob: got the size %d and the error %v, want %d", size, err, len(c.layer))
	}
	m, err := red.ManifestByDigest(t.Context(), c.image.Manifest, true)
	c.expectManifest(m, err, "team/app", c.image.Manifest, Miss)
	c.expectBlob(red, c.layer, Miss)
	_, err = red.ManifestByTag(t.Context(), "1", true)
	expectKind(t, err, upstream.Offline)
}

// TestPeersThatAskEachOther checks that two processes that each ask the other one first do
// not wait for each other.
func TestPeersThatAskEachOther(t *testing.T) {
	c := newCluster(t)
	back := &node{of: c.repository("red", "team/app")}
	ofOwner := func(config *Config) {
		config.OfPeer = func(p fill.Replica, _ bool) bool { return p == fill.Replica(c.node) }
	}
	ofOwner(&back.of.config)
	c.node.of.config.OfPeer = func(p fill.Replica, _ bool) bool { return p == fill.Replica(back) }
	begin := time.Now()
	var all sync.WaitGroup
	for i := range 40 {
		r := c.member()
		if i%2 == 0 {
			r = c.owner.repository("red", "team/app", asking(back))
		}
		all.Go(func() {
			m, err := r.ManifestByTag(t.Context(), "1", true)
			if err != nil {
				t.Error(err)
			}
			m.Content.Close()
			reader, _, err := r.Blob(t.Context(), c.image.Layers[0])
			if err != nil {
				t.Error(err)
				return
			}
			defer reader.Close()
			if got, err := io.ReadAll(reader); err != nil || !bytes.Equal(got, c.layer) {
				t.Errorf("got %d bytes and the error %v, want %d", len(got), err, len(c.layer))
			}
		})
	}
	all.Wait()
	if took := time.Since(begin); took > peerPatience-time.Second {
		t.Errorf("the pulls took %v: the processes have waited for each other", took)
	}
	counts := c.up.Counts()
	if counts.BlobGet > 2 || counts.ManifestGet > 2 || counts.ManifestHead > 2 {
		t.Errorf("got the requests %+v, want at most one of each process", counts)
	}
}

// TestPeersBusy checks that upstream is asked if all turns for questions to peers are taken,
// as while they answer slowly.
func TestPeersBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, up := newClocked(t)
		peer := new(node)
		red := f.repository("red", "team/app", asking(peer))
		for range maxQuestions {
			done, err := red.config.Questions.take(t.Context(), queueKey{"peers", red.config.Group})
			if err != nil {
				t.Fatal(err)
			}
			defer done()
		}
		moved := manifestNumber("2")
		up.set(func(u *clocked) { u.manifest = moved })
		begin := time.Now()
		m, err := red.ManifestByDigest(t.Context(), digest.FromBytes(moved), true)
		if err != nil || m.Status != Miss || !bytes.Equal(contentOf(t, m), moved) {
			t.Errorf("got %+v, error %v; want the manifest of upstream", m, err)
		}
		if took := time.Since(begin); took != turnPatience {
			t.Errorf("the pull took %v, want %v", took, turnPatience)
		}
		if asked, _, _ := peer.questions(); asked != 0 {
			t.Errorf("the peer got %d questions without a turn, want none", asked)
		}
	})
}
