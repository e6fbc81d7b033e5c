package pullthrough

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

func TestRepositoryBlobIsDownloadedOnce(t *testing.T) {
	f := newFixture(t)
	layer := random(1, 50_000)
	f.up.PutBlob("team/app", layer)
	r := f.repository("red", "team/app")
	f.expectBlob(r, layer, Miss)
	f.expectCounts("the first pull", registrytest.Counts{BlobGet: 1})
	f.expectBlob(r, layer, Hit)
	f.expectCounts("the second pull", registrytest.Counts{})
}

// A digest is not a capability: stored content is served for a repository only
// after upstream has confirmed that the repository contains it.
func TestRepositoryBlobOfAnotherRepository(t *testing.T) {
	f := newFixture(t)
	layer := random(1, 50_000)
	d := f.up.PutBlob("team/app", layer)
	f.up.PutBlob("team/copy", layer)
	f.up.PutBlob("team/other", random(2, 10))
	f.expectBlob(f.repository("red", "team/app"), layer, Miss)
	f.up.Reset()

	f.expectBlob(f.repository("red", "team/copy"), layer, Miss)
	f.expectCounts("a repository that contains it", registrytest.Counts{BlobHead: 1})
	f.expectBlob(f.repository("blue", "team/app"), layer, Miss)
	f.expectCounts("another group", registrytest.Counts{BlobHead: 1})
	f.expectBlob(f.repository("blue", "team/app"), layer, Hit)
	f.expectCounts("the other group again", registrytest.Counts{})

	for range 2 {
		_, _, err := f.repository("red", "team/other").Blob(t.Context(), d)
		expectKind(t, err, upstream.BlobUnknown)
		_, _, err = f.repository("red", "team/other").StatBlob(t.Context(), d)
		expectKind(t, err, upstream.BlobUnknown)
	}
}

// TestRepositoryFetched checks that the bytes of content are counted once, for the
// repository whose request has started the download, also if it fails.
func TestRepositoryFetched(t *testing.T) {
	f := newFixture(t)
	layer := random(1, 50_000)
	image := f.up.PutImage("team/app", "1", layer)
	f.up.PutBlob("team/app", layer)
	red, blue := f.repository("red", "team/app"), f.repository("blue", "team/app")
	f.expectBlob(red, layer, Miss)
	f.expectBlob(blue, layer, Miss) // confirmed by HEAD
	f.expectBlob(red, layer, Hit)
	m, err := red.ManifestByTag(t.Context(), "1", true)
	if err != nil {
		t.Fatal(err)
	}
	m.Content.Close()
	if _, _, err := red.Blob(t.Context(), digest.FromString("absent")); err == nil {
		t.Error("got a blob that does not exist")
	}
	f.awaitFills()
	if got, want := f.fetched[red.config.Scope], len(layer)+int(m.Size); got != want || m.Digest != image.Manifest {
		t.Errorf("got %d bytes for the first repository, want %d", got, want)
	}
	if got := f.fetched[blue.config.Scope]; got != 0 {
		t.Errorf("got %d bytes for a repository whose blob was stored, want none", got)
	}
}

// Content that one source has delivered is not served on the word of another one.
func TestRepositoryBlobOfAnotherSource(t *testing.T) {
	f := newFixture(t)
	layer := random(1, 50_000)
	f.up.PutBlob("team/app", layer)
	f.expectBlob(f.repository("red", "team/app"), layer, Miss)
	f.up.Reset()
	other := func(c *Config) {
		c.Scope, c.Endpoint = strings.Replace(c.Scope, "hub@1", "other@1", 1), "other"
	}
	f.expectBlob(f.repository("red", "team/app", other), layer, Miss)
	f.expectCounts("the other source", registrytest.Counts{BlobGet: 1})
}

func TestRepositoryBlobJoinsDownload(t *testing.T) {
	f := newFixture(t)
	layer := random(1, 1<<20)
	d := f.up.PutBlob("team/app", layer)
	release := f.up.StallBlobs(1000)
	r := f.repository("red", "team/app")
	first, status, err := r.Blob(t.Context(), d)
	if err != nil || status != Miss {
		t.Fatalf("got status %d, error %v; want %d", status, err, Miss)
	}
	defer first.Close()
	second, status, err := r.Blob(t.Context(), d)
	if err != nil || status != Joined {
		t.Fatalf("got status %d, error %v; want %d", status, err, Joined)
	}
	defer second.Close()
	release()
	if err := second.AwaitWhole(t.Context()); err != nil {
		t.Error(err)
	}
	f.expectCounts("both", registrytest.Counts{BlobGet: 1})
}

func TestRepositoryStatBlob(t *testing.T) {
	layer := random(1, 50_000)
	for name, row := range map[string]struct {
		options     []registrytest.Option
		first, next registrytest.Counts
		nextStatus  Status
	}{
		// What upstream only says is not recorded.
		"a size": {nil, registrytest.Counts{BlobHead: 1}, registrytest.Counts{BlobHead: 1}, Miss},
		// One GET is closed when it tells no size, another one downloads the blob.
		"no size": {[]registrytest.Option{registrytest.WithoutLength()}, registrytest.Counts{BlobHead: 1, BlobGet: 2}, registrytest.Counts{}, Hit},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, row.options...)
			d := f.up.PutBlob("team/app", layer)
			r := f.repository("red", "team/app")
			for i, want := range []registrytest.Counts{row.first, row.next} {
				size, status, err := r.StatBlob(t.Context(), d)
				if wantStatus := []Status{Miss, row.nextStatus}[i]; err != nil || size != int64(len(layer)) || status != wantStatus {
					t.Errorf("got size %d, status %d, error %v; want %d, %d", size, status, err, len(layer), wantStatus)
				}
				f.awaitFills()
				f.expectCounts("the question", want)
			}
		})
	}
}

// A record that cannot be written is reported and does not fail the pull.
func TestRepositoryBlobWithoutRecords(t *testing.T) {
	f := newFixture(t)
	f.records.fails = true
	layer := random(1, 1000)
	f.up.PutBlob("team/app", layer)
	r := f.repository("red", "team/app")
	f.expectBlob(r, layer, Miss)
	f.expectBlob(r, layer, Hit)
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.failed) != 1 || !strings.Contains(f.failed[0].Error(), "recording the content sha256:") || !strings.Contains(f.failed[0].Error(), "disk full") {
		t.Errorf("got reports %v, want one of the content", f.failed)
	}
}

func TestRepositoryBlobUpstreamError(t *testing.T) {
	f := newFixture(t)
	f.up.Fail(registrytest.Failure{Method: http.MethodGet, Status: http.StatusTooManyRequests})
	_, _, err := f.repository("red", "team/app").Blob(t.Context(), digest.FromString("x"))
	expectKind(t, err, upstream.RateLimited)
	var failure *upstream.Error
	if !errors.As(err, &failure) {
		t.Errorf("got %T, want an *upstream.Error", err)
	}
}
