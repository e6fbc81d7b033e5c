package pullthrough

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/dial"
)

// node is a [Peer] that answers from a repository of another process.
type node struct {
	of     *Repository // without Peers, with OfPeer
	change func(Question, *Answer, *error)

	mu     sync.Mutex
	asked  []Question
	pulled []digest.Digest
	failed []error
}

// Ask implements [Peer].
func (n *node) Ask(ctx context.Context, q Question) (answer Answer, err error) {
	n.mu.Lock()
	n.asked = append(n.asked, q)
	n.mu.Unlock()
	of := *n.of
	of.config.Accept, of.config.Forced = q.Accept, q.Forced
	var m Manifest
	if q.Blob {
		m.Digest = digest.Digest(q.Reference)
		m.Size, _, err = of.StatBlob(ctx, m.Digest)
	} else if d := digest.Digest(q.Reference); d.Validate() == nil {
		m, err = of.ManifestByDigest(ctx, d, !q.Head)
	} else {
		m, err = of.ManifestByTag(ctx, q.Reference, !q.Head)
	}
	if err == nil {
		answer.Descriptor = upstream.Descriptor{Digest: m.Digest, MediaType: m.MediaType, Size: m.Size}
		if m.Content != nil && m.Digest != q.Known {
			answer.Content = m.Content.Bytes
		}
		m.Content.Close()
		answer.Age = time.Since(m.Checked)
		answer.First = m.Status == Miss
	} else {
		err = fs.ErrNotExist
	}
	if n.change != nil {
		n.change(q, &answer, &err)
	}
	return answer, err
}

// Fetch implements [fill.Replica].
func (n *node) Fetch(ctx context.Context, d digest.Digest, offset, length int64) (*fill.Body, error) {
	n.mu.Lock()
	n.pulled = append(n.pulled, d)
	n.mu.Unlock()
	reader, _, err := n.of.Blob(ctx, d)
	if err != nil {
		return nil, fs.ErrNotExist
	}
	if !reader.Parts() || length >= 0 {
		panic("the peer must send all that follows an offset")
	}
	if _, err := reader.Seek(offset, io.SeekStart); err != nil {
		return nil, err
	}
	return &fill.Body{ReadCloser: reader, Size: reader.Size(), Offset: offset}, nil
}

// Failed implements [fill.Replica].
func (n *node) Failed(_ digest.Digest, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.failed = append(n.failed, err)
}

// questions returns how many questions about manifests and pulls of blobs the node has got
// since the last call, and how often it has failed.
func (n *node) questions() (manifests, blobs, failed int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	manifests, blobs, failed = len(n.asked), len(n.pulled), len(n.failed)
	n.asked, n.pulled, n.failed = nil, nil, nil
	return manifests, blobs, failed
}

// cluster is three processes with one upstream. The first one is asked by the others first.
type cluster struct {
	*fixture // of the last one
	owner    *fixture
	node     *node // the owner as red's team/app
	image    registrytest.Image
	layer    []byte
}

func newCluster(t testing.TB) *cluster {
	owner := newFixture(t)
	c := &cluster{owner: owner, layer: random(1, 50_000), fixture: newFixtureAt(t, owner.up.Endpoint(), dial.NewTransport(dial.TransportConfig{AllowPrivate: true}))}
	c.up = owner.up
	c.image = c.up.PutImage("team/app", "1", c.layer)
	c.node = &node{of: owner.repository("red", "team/app", ofPeer)}
	return c
}

// ofPeer makes a repository that of a peer's request.
func ofPeer(c *Config) { c.OfPeer = func(fill.Replica, bool) bool { return false } }

// asking makes a repository ask peers.
func asking(peers ...Peer) func(*Config) {
	return func(c *Config) { c.Peers = func(string) []Peer { return peers } }
}

// member returns red's team/app as the last process sees it.
func (c *cluster) member(changes ...func(*Config)) *Repository {
	return c.repository("red", "team/app", append([]func(*Config){asking(c.node)}, changes...)...)
}

// age makes the last confirmation of a tag a minute older.
func (c *cluster) age(tag string) {
	c.t.Helper()
	scope := c.member().config.Scope
	ref, err := c.config.Index.Ref(c.t.Context(), scope, tag)
	ref.Checked = ref.Checked.Add(-time.Minute)
	if err == nil {
		err = c.config.Index.SetRef(c.t.Context(), scope, tag, ref)
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// expectQuestions compares what the owner was asked since the last call.
func (c *cluster) expectQuestions(what string, manifests, blobs, failed int) {
	c.t.Helper()
	if m, b, f := c.node.questions(); m != manifests || b != blobs || f != failed {
		c.t.Errorf("%s: the owner got %d questions about manifests and %d about blobs, and failed %d times; want %d, %d and %d", what, m, b, f, manifests, blobs, failed)
	}
}

// TestPeersColdImage checks that an image that no process has costs upstream what one client
// costs, that both processes may serve it to the scope after that, and that what the
// other one needs is asked once.
func TestPeersColdImage(t *testing.T) {
	c := newCluster(t)
	red := c.member()
	m, err := red.ManifestByTag(t.Context(), "1", true)
	c.expectManifest(m, err, "team/app", c.image.Manifest, Miss)
	c.expectBlob(red, c.layer, Miss)
	c.expectCounts("the pull", registrytest.Counts{ManifestHead: 1, ManifestGet: 1, BlobGet: 1})
	c.expectQuestions("the pull", 1, 1, 0)
	c.expectNothingFetched()
	if link, err := c.config.Index.Link(t.Context(), red.config.Scope, c.image.Manifest); err != nil || link.MediaType == "" || link.Size == 0 {
		t.Errorf("got the link %+v and the error %v, want one with a type and a size", link, err)
	}

	m, err = red.ManifestByTag(t.Context(), "1", true)
	c.expectManifest(m, err, "team/app", c.image.Manifest, Hit)
	m, err = red.ManifestByDigest(t.Context(), c.image.Manifest, true)
	c.expectManifest(m, err, "team/app", c.image.Manifest, Hit)
	c.expectBlob(red, c.layer, Hit)
	c.expectQuestions("the second pull", 0, 0, 0)
	c.owner.awaitFills()
	own := c.owner.repository("red", "team/app")
	m, err = own.ManifestByTag(t.Context(), "1", true)
	c.expectManifest(m, err, "team/app", c.image.Manifest, Hit)
	c.owner.expectBlob(own, c.layer, Hit)
	c.expectCounts("pulls from both", registrytest.Counts{})
}

// TestPeersConfirmationsAreLearned checks that what a peer has confirmed is recorded as such,
// so that not each process writes it to the storage that all share, and that the request
// is not a hit because of that.
func TestPeersConfirmationsAreLearned(t *testing.T) {
	c := newCluster(t)
	red := c.member()
	for _, want := range []Status{Miss, Hit} {
		m, err := red.ManifestByTag(t.Context(), "1", true)
		c.expectManifest(m, err, "team/app", c.image.Manifest, want)
		if ref, err := c.config.Index.Ref(t.Context(), red.config.Scope, "1"); err != nil || !ref.Learned {
			t.Errorf("got the ref %+v and the error %v, want one that is learned", ref, err)
		}
	}
}

// TestPeersColdDigest checks that a manifest that is asked for by its digest comes from a
// peer without a question to upstream beside the owner's.
func TestPeersColdDigest(t *testing.T) {
	c := newCluster(t)
	m, err := c.member().ManifestByDigest(t.Context(), c.image.Manifest, true)
	c.expectManifest(m, err, "team/app", c.image.Manifest, Miss)
	c.expectCounts("the pull", registrytest.Counts{ManifestGet: 1})
	c.expectQuestions("the pull", 1, 0, 0)
}

// TestPeersManyClients checks that clients of both processes at once cost upstream one
// question of each kind.
func TestPeersManyClients(t *testing.T) {
	c := newCluster(t)
	var all sync.WaitGroup
	for i := range 60 {
		r, up := c.member(), c.fixture
		if i%2 == 0 {
			r, up = c.owner.repository("red", "team/app"), c.owner
		}
		all.Go(func() {
			m, err := r.ManifestByTag(t.Context(), "1", true)
			if err != nil || m.Digest != c.image.Manifest {
				up.t.Errorf("got %s and the error %v, want %s", m.Digest, err, c.image.Manifest)
			}
			m.Content.Close()
			reader, _, err := r.Blob(t.Context(), c.image.Layers[0])
			if err != nil {
				t.Errorf("blob: %v", err)
				return
			}
			defer reader.Close()
			if got, err := io.ReadAll(reader); err != nil || !bytes.Equal(got, c.layer) {
				t.Errorf("blob: got %d bytes and the error %v, want %d", len(got), err, len(c.layer))
			}
		})
	}
	all.Wait()
	c.expectCounts("all pulls", registrytest.Counts{ManifestHead: 1, ManifestGet: 1, BlobGet: 1})
}

// TestPeersHead checks that clients that ask for headers cost upstream no pull.
func TestPeersHead(t *testing.T) {
	c := newCluster(t)
	red := c.member()
	m, err := red.ManifestByTag(t.Context(), "1", false)
	c.expectManifest(m, err, "team/app", c.image.Manifest, Miss)
	c.expectCounts("HEAD of a tag", registrytest.Counts{ManifestHead: 1})
	m, err = red.ManifestByDigest(t.Context(), c.image.Manifest, false)
	c.expectManifest(m, err, "team/app", c.image.Manifest, Miss)
	c.expectCounts("HEAD of a digest", registrytest.Counts{ManifestHead: 1})
	if size, _, err := red.StatBlob(t.Context(), c.image.Layers[0]); err != nil || size != int64(len(c.layer)) {
		t.Errorf("got the size %d and the error %v, want %d", size, err, len(c.layer))
	}
	c.expectCounts("HEAD of a blob", registrytest.Counts{BlobHead: 1})
}

// TestPeersTagMoves checks that a tag costs the cluster one HEAD per window, whether it has
// moved or not.
func TestPeersTagMoves(t *testing.T) {
	c := newCluster(t)
	// A fresh answer of the owner is one for the other process, which looks later.
	mine, owners := freshFor(0), c.owner.repository("red", "team/app", ofPeer)
	owners.config.FreshFor = time.Hour
	c.node.of = owners
	m, err := c.member().ManifestByTag(t.Context(), "1", true)
	c.expectManifest(m, err, "team/app", c.image.Manifest, Miss)
	c.up.Reset()
	c.expectQuestions("the first pull", 1, 0, 0)

	// The owner's time is not newer, so upstream is asked.
	m, err = c.member(mine).ManifestByTag(t.Context(), "1", true)
	c.expectManifest(m, err, "team/app", c.image.Manifest, Revalidated)
	c.expectCounts("an answer that is not fresh", registrytest.Counts{ManifestHead: 1})
	c.node.questions()

	moved := c.up.PutImage("team/app", "1", random(2, 1000))
	owners.config.FreshFor = 0
	fresh := func(c *Config) { c.Forced = true }
	c.age("1")
	m, err = c.member(fresh).ManifestByTag(t.Context(), "1", true)
	c.expectManifest(m, err, "team/app", moved.Manifest, Revalidated)
	c.expectCounts("a tag that has moved", registrytest.Counts{ManifestHead: 1, ManifestGet: 1})
	c.expectQuestions("a tag that has moved", 1, 0, 0)
	c.age("1")
	m, err = c.member(fresh).ManifestByTag(t.Context(), "1", true)
	c.expectManifest(m, err, "team/app", moved.Manifest, Revalidated)
	c.expectCounts("a tag that has not moved", registrytest.Counts{ManifestHead: 1})
	if got := c.node.asked[0]; got.Known != moved.Manifest || !got.Forced {
		t.Errorf("the owner was asked %+v, want a forced question with the known digest", got)
	}
}
