package pullthrough

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/dial"
)

// replica is a [fill.Replica] in memory.
type replica struct {
	mu     sync.Mutex
	copies map[digest.Digest][]byte
	broken error // of Fetch, if it is set
	asked  int
	failed []error
}

// newReplica returns a replica with copies of content.
func newReplica(contents ...[]byte) *replica {
	r := &replica{copies: make(map[digest.Digest][]byte)}
	for _, content := range contents {
		r.copies[digest.FromBytes(content)] = content
	}
	return r
}

// Fetch implements [fill.Replica].
func (r *replica) Fetch(_ context.Context, d digest.Digest, offset, length int64) (*fill.Body, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked++
	content, ok := r.copies[d]
	switch {
	case r.broken != nil:
		return nil, r.broken
	case !ok:
		return nil, fs.ErrNotExist
	}
	size := int64(len(content))
	end := size
	if length >= 0 {
		end = min(end, offset+length)
	}
	return &fill.Body{ReadCloser: io.NopCloser(bytes.NewReader(content[offset:end])), Size: size, Offset: offset, End: end}, nil
}

// Failed implements [fill.Replica].
func (r *replica) Failed(d digest.Digest, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = append(r.failed, err)
	if errors.Is(err, fill.ErrDigestMismatch) {
		delete(r.copies, d)
	}
}

// questions returns how often the replica was asked since the last call.
func (r *replica) questions() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked := r.asked
	r.asked = 0
	return asked
}

// from makes a repository ask replicas.
func from(replicas ...fill.Replica) func(*Config) {
	return func(c *Config) { c.Replicas = replicas }
}

// evict empties the storage, but not the index.
func (f *fixture) evict() {
	f.t.Helper()
	known := f.config.Index
	f.config.Cache = newFixtureAt(f.t, f.up.Endpoint(), dial.NewTransport(dial.TransportConfig{AllowPrivate: true})).config.Cache
	f.config.Quotas = blobcache.NewQuotas(f.config.Cache, known, nil)
	f.config.Sizes = nil
}

// replicated returns a fixture whose cache has lost an image of team/app that red has pulled,
// and a replica that has all of it.
func replicated(t *testing.T) (*fixture, registrytest.Image, []byte, *replica) {
	f := newFixture(t)
	layer := random(1, 50_000)
	image := f.up.PutImage("team/app", "1", layer)
	red := f.repository("red", "team/app")
	m, err := red.ManifestByTag(t.Context(), "1", true)
	f.expectManifest(m, err, "team/app", image.Manifest, Miss)
	f.expectBlob(red, layer, Miss)
	f.evict()
	f.up.Reset()
	clear(f.fetched)
	return f, image, layer, newReplica(layer, f.up.RawManifest("team/app", image.Manifest))
}

// expectNothingFetched reports an error if bytes are counted as fetched from upstream.
func (f *fixture) expectNothingFetched() {
	f.t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.fetched) > 0 {
		f.t.Errorf("bytes are counted as fetched: %v, want none", f.fetched)
	}
}

// TestRepositoryReplica checks that an image that the cache has lost comes from a replica, as
// a hit, without a request to upstream and without bytes that count as fetched from there.
func TestRepositoryReplica(t *testing.T) {
	f, image, layer, bucket := replicated(t)
	red := f.repository("red", "team/app", from(bucket))
	for i := range 2 {
		m, err := red.ManifestByTag(t.Context(), "1", true)
		f.expectManifest(m, err, "team/app", image.Manifest, Hit)
		if first := i == 0; m.Content.FromReplica != first {
			t.Errorf("pull %d: FromReplica of the manifest is %v, want %v", i, m.Content.FromReplica, first)
		}
		m, err = red.ManifestByDigest(t.Context(), image.Manifest, true)
		f.expectManifest(m, err, "team/app", image.Manifest, Hit)
		f.expectBlob(red, layer, Hit)
		if asked := bucket.questions(); i == 0 && asked != 2 || i > 0 && asked != 0 {
			t.Errorf("pull %d: the replica was asked %d times, want twice and then never", i, asked)
		}
	}
	f.expectCounts("the pulls", registrytest.Counts{})
	f.expectNothingFetched()
}

// TestRepositoryReplicaOffline checks that content comes from a replica although upstream must
// not be asked, or is down.
func TestRepositoryReplicaOffline(t *testing.T) {
	f, image, layer, bucket := replicated(t)
	offline, err := upstream.New(upstream.Config{Name: "hub", Endpoint: f.up.Endpoint(), Offline: true})
	if err != nil {
		t.Fatal(err)
	}
	red := f.repository("red", "team/app", from(bucket), func(c *Config) { c.Registry = upstream.NewMirrors(offline) })
	m, err := red.ManifestByDigest(t.Context(), image.Manifest, true)
	f.expectManifest(m, err, "team/app", image.Manifest, Hit)
	f.expectBlob(red, layer, Hit)
	delete(bucket.copies, image.Layers[0])
	f.evict()
	_, _, err = f.repository("red", "team/app", from(bucket), func(c *Config) { c.Registry = upstream.NewMirrors(offline) }).Blob(t.Context(), image.Layers[0])
	expectKind(t, err, upstream.Offline)
	f.expectCounts("the pulls", registrytest.Counts{})
}

// TestRepositoryReplicaOfAnotherGroup checks that a group gets content of a replica only after
// upstream has confirmed it for the group, by HEAD, and nothing that upstream denies.
func TestRepositoryReplicaOfAnotherGroup(t *testing.T) {
	f, image, layer, bucket := replicated(t)
	blue := f.repository("blue", "team/app", from(bucket))
	m, err := blue.ManifestByDigest(t.Context(), image.Manifest, true)
	f.expectManifest(m, err, "team/app", image.Manifest, Miss)
	f.expectBlob(blue, layer, Miss)
	f.expectCounts("another group", registrytest.Counts{ManifestHead: 1, BlobHead: 1})
	f.expectBlob(blue, layer, Hit)
	f.expectNothingFetched()
	bucket.questions()

	other := f.repository("blue", "team/other", from(bucket))
	f.up.PutBlob("team/other", random(9, 10))
	_, _, err = other.Blob(t.Context(), image.Layers[0])
	expectKind(t, err, upstream.BlobUnknown)
	_, err = other.ManifestByDigest(t.Context(), image.Manifest, true)
	expectKind(t, err, upstream.ManifestUnknown)
	if asked := bucket.questions(); asked != 0 {
		t.Errorf("the replica was asked %d times for content that the repository does not contain, want never", asked)
	}
}

// TestRepositoryReplicaOfAnotherEndpoint checks that a replica is not asked for content that the
// endpoint has not delivered, although another one has.
func TestRepositoryReplicaOfAnotherEndpoint(t *testing.T) {
	f, image, layer, bucket := replicated(t)
	elsewhere := f.repository("red", "team/app", from(bucket), func(c *Config) {
		c.Endpoint, c.Scope = "other", "red/_/other@1/team/app"
	})
	m, err := elsewhere.ManifestByTag(t.Context(), "1", true)
	f.expectManifest(m, err, "team/app", image.Manifest, Miss)
	f.expectBlob(elsewhere, layer, Miss)
	f.expectCounts("the pull", registrytest.Counts{ManifestHead: 1, ManifestGet: 1, BlobGet: 1})
	if asked := bucket.questions(); asked != 0 {
		t.Errorf("the replica was asked %d times, want never", asked)
	}
}

// TestRepositoryReplicaFails checks that a pull goes on from upstream if a replica is down, has
// lost content, or has other bytes, which it then removes.
func TestRepositoryReplicaFails(t *testing.T) {
	for name, c := range map[string]struct {
		change func(r *replica)
		failed int
	}{
		"down":  {func(r *replica) { r.broken = errors.New("503 SlowDown") }, 2},
		"empty": {func(r *replica) { clear(r.copies) }, 0},
		"another size": {func(r *replica) {
			for d, content := range r.copies {
				r.copies[d] = content[1:]
			}
		}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			f, image, layer, bucket := replicated(t)
			c.change(bucket)
			red := f.repository("red", "team/app", from(bucket))
			m, err := red.ManifestByTag(t.Context(), "1", true)
			f.expectManifest(m, err, "team/app", image.Manifest, Miss)
			if m.Content.FromReplica {
				t.Error("FromReplica is set for a manifest from upstream")
			}
			f.expectBlob(red, layer, Miss)
			f.expectCounts("the pull", registrytest.Counts{ManifestGet: 1, BlobGet: 1})
			if got := len(bucket.failed); got != c.failed {
				t.Errorf("Failed: got the errors %v, want %d", bucket.failed, c.failed)
			}
			if got := f.fetched[red.config.Scope]; got != len(layer)+int(m.Size) {
				t.Errorf("%d bytes are counted as fetched, want %d", got, len(layer)+int(m.Size))
			}
		})
	}
}

// TestRepositoryReplicaLies checks that a manifest of which a replica has other bytes comes from
// upstream at once, and that a blob does at the next pull at the latest.
func TestRepositoryReplicaLies(t *testing.T) {
	f, image, layer, bucket := replicated(t)
	for d, content := range bucket.copies {
		wrong := bytes.Clone(content)
		wrong[len(wrong)/2] ^= 1
		bucket.copies[d] = wrong
	}
	red := f.repository("red", "team/app", from(bucket))
	m, err := red.ManifestByTag(t.Context(), "1", true)
	f.expectManifest(m, err, "team/app", image.Manifest, Miss)
	reader, _, err := red.Blob(t.Context(), image.Layers[0])
	if err == nil {
		if got, rerr := io.ReadAll(reader); rerr == nil && !bytes.Equal(got, layer) || len(got) == len(layer) && rerr != nil {
			t.Errorf("got %d bytes and the error %v, want the layer, or less of it and an error", len(got), rerr)
		}
		_ = reader.Close()
	} else if !errors.Is(err, fill.ErrDigestMismatch) {
		t.Errorf("got the error %v, want none or %v", err, fill.ErrDigestMismatch)
	}
	f.awaitFills()
	if len(bucket.copies) > 0 || len(bucket.failed) != 2 {
		t.Errorf("the replica has %d copies after the failures %v, want none", len(bucket.copies), bucket.failed)
	}
	bucket.questions()
	reader, _, err = red.Blob(t.Context(), image.Layers[0])
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if got, err := io.ReadAll(reader); err != nil || !bytes.Equal(got, layer) || bucket.questions() != 0 {
		t.Errorf("the next pull: got %d bytes and the error %v, want the layer without a question to the replica", len(got), err)
	}
}
