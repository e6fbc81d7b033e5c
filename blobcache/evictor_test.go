package blobcache

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// kept is a cache on a directory, swept by hand.
func kept(t *testing.T, dir string, limits Limits) (*Cache, *store.FileStore) {
	t.Helper()
	files, err := store.OpenFileStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	return keptOn(t, files, limits), files
}

func keptOn(t *testing.T, blobs store.Blobs, limits Limits) *Cache {
	limits.Reserve = -1
	c := New(blobs, limits, Hooks{StorageError: func(op string, err error) { t.Logf("trouble: %s: %v", op, err) }})
	c.evictor.clock.began = c.evictor.clock.began.Add(-clockGrace)
	c.evictor.clock.wall = c.evictor.clock.wall.Add(-clockGrace)
	return c
}

// content is some bytes that no other n has, and their digest.
func content(n, size int) ([]byte, digest.Digest) {
	b := bytes.Repeat([]byte{byte(n), byte(n >> 8)}, size/2)
	return b, digest.FromBytes(b)
}

// pull reads content n through the cache and returns how it was come by.
func pull(t *testing.T, c *Cache, n, size int) fill.Origin {
	t.Helper()
	want, d := content(n, size)
	r, origin, err := c.Get(t.Context(), fill.Request{Digest: d, Size: -1, Fetch: func(context.Context, int64, int64, string) (*fill.Body, error) {
		return &fill.Body{ReadCloser: io.NopCloser(bytes.NewReader(want)), Size: int64(len(want))}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("content %d: %d bytes, %v", n, len(got), err)
	}
	c.Flush(t.Context())
	return origin
}

func sweep(t *testing.T, c *Cache) {
	t.Helper()
	if _, err := c.evictor.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func has(t *testing.T, c *Cache, n, size int) bool {
	t.Helper()
	_, d := content(n, size)
	_, ok := c.Has(t.Context(), d)
	return ok
}

// age makes content look as if it had last been pulled some time ago.
func age(t *testing.T, s *store.FileStore, n, size int, by time.Duration) {
	t.Helper()
	_, d := content(n, size)
	if err := s.Touch(t.Context(), d, time.Now().Add(-by)); err != nil {
		t.Fatal(err)
	}
}

func TestSweepRemovesLeastRecentlyUsed(t *testing.T) {
	const size = 1000
	c, files := kept(t, t.TempDir(), Limits{MaxSize: 10 * size})
	for n := range 9 {
		pull(t, c, n, size)
	}
	sweep(t, c)
	for n := range 9 {
		age(t, files, n, size, time.Duration(9-n)*time.Hour)
	}
	if origin := pull(t, c, 0, size); origin != fill.Hit {
		t.Fatalf("the oldest was fetched again: %v", origin)
	}
	pull(t, c, 9, size)
	sweep(t, c)
	for n, want := range []bool{true, false, true, true, true, true, true, true, true, true} {
		if got := has(t, c, n, size); got != want {
			t.Errorf("content %d is there: %v, want %v", n, got, want)
		}
	}
	if c.evictor.stored != 9*size {
		t.Errorf("%d bytes are counted, want %d", c.evictor.stored, 9*size)
	}
}

// TestCacheStaysWithinMaxSize pulls ten times as much as there is room for, with
// the keeper running as it does in life.
func TestCacheStaysWithinMaxSize(t *testing.T) {
	const size, limit = 1000, 20_000
	c, files := kept(t, t.TempDir(), Limits{MaxSize: limit})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); c.Keep(ctx) }()
	for n := range 200 {
		if n == 199 { // stored times of use are whole seconds, and the last one is to be the latest
			time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
		}
		pull(t, c, n, size)
		var total int64
		if err := files.Walk(t.Context(), func(e store.Entry) error { total += e.Size; return nil }); err != nil {
			t.Fatal(err)
		}
		if total > limit {
			t.Fatalf("%d bytes are stored after %d pulls", total, n+1)
		}
	}
	cancel()
	<-done
	if !has(t, c, 199, size) {
		t.Error("what was pulled last is not there")
	}
}

func TestSweepUnusedForAfterRestart(t *testing.T) {
	const size = 100
	dir := t.TempDir()
	c, files := kept(t, dir, Limits{UnusedFor: 24 * time.Hour})
	for n := range 3 {
		pull(t, c, n, size)
	}
	sweep(t, c)
	for n := range 3 {
		age(t, files, n, size, 25*time.Hour)
	}
	if pull(t, c, 1, size) != fill.Hit {
		t.Fatal("not a hit")
	}
	// The end of the process writes the use down; the next one reads it.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c.Keep(ctx)
	c, _ = kept(t, dir, Limits{UnusedFor: 24 * time.Hour})
	sweep(t, c)
	if has(t, c, 0, size) || !has(t, c, 1, size) || has(t, c, 2, size) {
		t.Error("what was used within the day should be there, and nothing else")
	}
}

func TestCachePassesOnTooLarge(t *testing.T) {
	c, files := kept(t, t.TempDir(), Limits{MaxBlobSize: 500, MaxSize: 5000})
	for range 2 {
		if origin := pull(t, c, 1, 1000); origin != fill.Started {
			t.Errorf("origin %v, want Led", origin)
		}
	}
	if has(t, c, 1, 1000) {
		t.Error("it was stored")
	}
	entries, err := os.ReadDir(filepath.Join(dirOf(files), "tmp"))
	if err != nil || len(entries) != 0 {
		t.Errorf("left in the temporary folder: %v, %v", entries, err)
	}
}

// TestCacheKeepsReserve takes the disk for full.
func TestCacheKeepsReserve(t *testing.T) {
	files, err := store.OpenFileStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	full := &fullDisk{FileStore: files}
	c := New(full, Limits{Reserve: 1 << 20}, Hooks{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); c.Keep(ctx) }()
	defer func() { cancel(); <-done }()
	if pull(t, c, 1, 1000) != fill.Started || has(t, c, 1, 1000) {
		t.Error("something was stored on a disk that is full")
	}
}

type fullDisk struct{ *store.FileStore }

func (*fullDisk) Free(context.Context) (free, total int64, err error) { return 1 << 19, 1 << 30, nil }

// TestScrubDropsDamage flips a byte, which changes no size.
func TestScrubDropsDamage(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		const size = 1000
		c, files := kept(t, dir, Limits{})
		for n := range 20 {
			pull(t, c, n, size)
		}
		_, d := content(7, size)
		name := pathOf(dirOf(files), d)
		damaged, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		damaged[size/2] ^= 1
		if err := os.WriteFile(name, damaged, 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go c.Keep(ctx)
		time.Sleep(time.Hour)
		cancel()
		synctest.Wait()
		for n := range 20 {
			if got := has(t, c, n, size); got != (n != 7) {
				t.Errorf("content %d is there: %v", n, got)
			}
		}
		if pull(t, c, 7, size) != fill.Started {
			t.Error("the damaged content was not fetched again")
		}
	})
}

// TestCacheKeepsContentOfUnexpectedSize: a scope whose source lies about a size must
// not make the cache drop what another one stored.
func TestCacheKeepsContentOfUnexpectedSize(t *testing.T) {
	const size = 1000
	c, _ := kept(t, t.TempDir(), Limits{})
	pull(t, c, 1, size)
	_, d := content(1, size)
	r, origin, err := c.Get(t.Context(), fill.Request{Digest: d, Size: size + 1, Fetch: func(context.Context, int64, int64, string) (*fill.Body, error) {
		return nil, fs.ErrNotExist
	}})
	if err != nil || origin != fill.Hit {
		t.Fatalf("origin %v, %v", origin, err)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || len(got) != size {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestReaderOfEvictedContent(t *testing.T) {
	const size = 1000
	c, files := kept(t, t.TempDir(), Limits{MaxSize: 10 * size})
	pull(t, c, 1, size)
	want, d := content(1, size)
	r, _, err := c.Get(t.Context(), fill.Request{Digest: d, Size: -1, Fetch: func(context.Context, int64, int64, string) (*fill.Body, error) {
		return nil, fs.ErrNotExist
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := files.Remove(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}
