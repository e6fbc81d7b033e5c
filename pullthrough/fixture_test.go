package pullthrough

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/dial"
)

// fixture is an empty cache in a folder of the test, and an upstream.
type fixture struct {
	t       testing.TB
	up      *registrytest.Registry
	records *failingRecords
	config  Config

	mu     sync.Mutex
	stale  []string // tags that Hooks.Stale was told
	failed []error  // what Hooks.RecordFailed was told

	fetched map[string]int // what Hooks.Fetched was told, by scope
}

func newFixture(t testing.TB, options ...registrytest.Option) *fixture {
	t.Helper()
	up := registrytest.New(t, options...)
	f := newFixtureAt(t, up.Endpoint(), dial.NewTransport(dial.TransportConfig{AllowPrivate: true}))
	f.up = up
	return f
}

// newPulled returns a fixture, and a repository that has pulled an image by the tag 1, about
// which upstream is asked each time.
func newPulled(t testing.TB) (*fixture, *Repository, registrytest.Image) {
	t.Helper()
	f := newFixture(t)
	image := f.up.PutImage("team/app", "1", random(1, 100))
	r := f.repository("red", "team/app", freshFor(0))
	m, err := r.ManifestByTag(t.Context(), "1", true)
	f.expectManifest(m, err, "team/app", image.Manifest, Miss)
	return f, r, image
}

// newFixtureAt returns a fixture whose upstream is elsewhere.
func newFixtureAt(t testing.TB, endpoint *url.URL, transport http.RoundTripper) *fixture {
	t.Helper()
	files, err := store.OpenFileStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	registry, err := upstream.New(upstream.Config{Name: "hub", Endpoint: endpoint, Transport: transport})
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{t: t, records: &failingRecords{Records: files}, fetched: make(map[string]int)}
	cache, known := blobcache.New(files, blobcache.Limits{Reserve: -1}, blobcache.Hooks{}), index.New(f.records)
	f.config = Config{
		Cache: cache, Index: known, Quotas: blobcache.NewQuotas(cache, known, nil),
		Lists: NewLists(time.Hour), Questions: new(Questions), Flights: new(Flights),
		Registry: upstream.NewMirrors(registry), Endpoint: "hub", FreshFor: time.Hour, Patience: time.Minute, StaleFor: Forever, Connections: 1,
		Hooks: Hooks{
			Stale: func(_, tag string, _ error) {
				f.mu.Lock()
				defer f.mu.Unlock()
				f.stale = append(f.stale, tag)
			},
			Fetched: func(scope string, n int) {
				f.mu.Lock()
				defer f.mu.Unlock()
				f.fetched[scope] += n
			},
			RecordFailed: func(_ string, err error) {
				f.mu.Lock()
				defer f.mu.Unlock()
				f.failed = append(f.failed, err)
			},
		},
	}
	t.Cleanup(f.awaitFills)
	return f
}

// restart forgets what is in memory.
func (f *fixture) restart() { f.config.Index = index.New(f.records) }

// repository returns a repository as a group sees it.
func (f *fixture) repository(group, name string, changes ...func(*Config)) *Repository {
	config := f.config
	config.Group, config.Name, config.Scope = group, name, group+"/_/hub@1/"+name
	for _, change := range changes {
		change(&config)
	}
	return New(config)
}

func freshFor(d time.Duration) func(*Config) { return func(c *Config) { c.FreshFor = d } }

// awaitFills waits until no download is in progress.
func (f *fixture) awaitFills() {
	f.t.Helper()
	eventually(f.t, "downloads end", func() bool { return len(f.config.Cache.Fills()) == 0 })
}

// expectCounts compares what upstream was asked since the last call.
func (f *fixture) expectCounts(what string, want registrytest.Counts) {
	f.t.Helper()
	got := f.up.Counts()
	got.BlobBytes, want.BlobBytes = 0, 0
	if got != want {
		f.t.Errorf("%s: got requests %+v, want %+v", what, got, want)
	}
	f.up.Reset()
}

// expectBlob pulls a blob and waits until it is stored.
func (f *fixture) expectBlob(r *Repository, content []byte, want Status) {
	f.t.Helper()
	reader, status, err := r.Blob(f.t.Context(), digest.FromBytes(content))
	if err != nil {
		f.t.Fatal(err)
	}
	defer reader.Close()
	var got bytes.Buffer
	if _, err := reader.WriteTo(&got); err != nil || !bytes.Equal(got.Bytes(), content) {
		f.t.Errorf("got %d bytes, error %v; want %d bytes", got.Len(), err, len(content))
	}
	if status != want {
		f.t.Errorf("got status %d, want %d", status, want)
	}
	f.awaitFills()
}

// expectManifest compares a manifest with what upstream has.
func (f *fixture) expectManifest(m Manifest, err error, repo string, d digest.Digest, want Status) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
	defer m.Content.Close()
	content := f.up.RawManifest(repo, d)
	if m.Digest != d || m.Status != want || m.Size != int64(len(content)) || m.MediaType == "" {
		f.t.Errorf("got %+v, want digest %s, status %d, %d bytes and a media type", m, d, want, len(content))
	}
	if got := contentOf(f.t, m); m.Content != nil && !bytes.Equal(got, content) {
		f.t.Errorf("got %d bytes, want upstream's %d", len(got), len(content))
	}
}

func contentOf(t testing.TB, m Manifest) []byte {
	t.Helper()
	if m.Content == nil || m.Content.File == nil {
		if m.Content == nil {
			return nil
		}
		return m.Content.Bytes
	}
	content, err := io.ReadAll(m.Content.File)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// expectKind compares the kind of upstream's error.
func expectKind(t testing.TB, err error, want upstream.Kind) {
	t.Helper()
	if got := upstream.KindOf(err); err == nil || got != want {
		t.Errorf("got error %v of kind %v, want kind %v", err, got, want)
	}
}

// failingRecords are records that cannot be written while fails is set.
type failingRecords struct {
	store.Records
	fails bool
}

func (r *failingRecords) Save(ctx context.Context, key string, value []byte) error {
	if r.fails {
		return errors.New("disk full")
	}
	return r.Records.Save(ctx, key, value)
}

func random(seed byte, size int) []byte {
	content := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(content)
	return content
}

func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited a minute for: %s", what)
		}
	}
}
