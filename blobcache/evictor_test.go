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

// kept returns a cache on a directory, and its store. The tests call its sweep themselves.
func kept(t *testing.T, dir string, limits Limits) (*Cache, *store.FileStore) {
	t.Helper()
	files, err := store.OpenFileStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	return keptOn(t, files, limits), files
}

// keptOn is like kept for a given store.
func keptOn(t *testing.T, blobs store.Blobs, limits Limits) *Cache {
	limits.Reserve = -1
	c := New(blobs, limits, Hooks{StorageError: func(op string, err error) { t.Logf("storage error: %s: %v", op, err) }})
	c.evictor.clock.began = c.evictor.clock.began.Add(-clockGrace)
	c.evictor.clock.wall = c.evictor.clock.wall.Add(-clockGrace)
	return c
}

// content returns bytes that are unique to n, and their digest.
func content(n, size int) ([]byte, digest.Digest) {
	b := bytes.Repeat([]byte{byte(n), byte(n >> 8)}, size/2)
	return b, digest.FromBytes(b)
}

// pull reads content n through the cache and returns its origin.
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
		t.Fatalf("content %d: got %d bytes and the error %v, want the %d bytes of the content and no error", n, len(got), err, len(want))
	}
	c.Flush(t.Context())
	return origin
}

// sweep runs one sweep of the evictor.
func sweep(t *testing.T, c *Cache) {
	t.Helper()
	if _, err := c.evictor.sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// has reports whether content n is stored.
func has(t *testing.T, c *Cache, n, size int) bool {
	t.Helper()
	_, d := content(n, size)
	_, ok := c.Has(t.Context(), d)
	return ok
}

// age sets the stored time of the last use of content n to the given time ago.
func age(t *testing.T, s *store.FileStore, n, size int, by time.Duration) {
	t.Helper()
	_, d := content(n, size)
	if err := s.Touch(t.Context(), d, time.Now().Add(-by)); err != nil {
		t.Fatal(err)
	}
}

// TestSweepRemovesLeastRecentlyUsed checks that a sweep removes the content that was not used
// for the longest time.
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
		t.Fatalf("pull of the oldest content: got origin %v, want %v", origin, fill.Hit)
	}
	pull(t, c, 9, size)
	sweep(t, c)
	for n, want := range []bool{true, false, true, true, true, true, true, true, true, true} {
		if got := has(t, c, n, size); got != want {
			t.Errorf("content %d is stored: got %v, want %v", n, got, want)
		}
	}
	if c.evictor.stored != 9*size {
		t.Errorf("got %d bytes counted as stored, want %d", c.evictor.stored, 9*size)
	}
}

// TestCacheStaysWithinMaxSize checks that the stored content stays within MaxSize while
// Cache.Keep runs and ten times as much is pulled.
func TestCacheStaysWithinMaxSize(t *testing.T) {
	const size, limit = 1000, 20_000
	c, files := kept(t, t.TempDir(), Limits{MaxSize: limit})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); c.Keep(ctx) }()
	for n := range 200 {
		if n == 199 { // the stored times of use are whole seconds, and the last one must be the latest
			time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
		}
		pull(t, c, n, size)
		var total int64
		if err := files.Walk(t.Context(), func(e store.Entry) error { total += e.Size; return nil }); err != nil {
			t.Fatal(err)
		}
		if total > limit {
			t.Fatalf("got %d bytes stored after %d pulls, want at most %d", total, n+1, limit)
		}
	}
	cancel()
	<-done
	if !has(t, c, 199, size) {
		t.Error("the content that was pulled last is not stored")
	}
}

// TestSweepUnusedForAfterRestart checks that a sweep after a restart applies UnusedFor to the
// times of use that the previous process recorded.
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
		t.Fatal("pull of content 1: got another origin, want a hit")
	}
	// Keep records the times of use when it ends, and the next cache reads them.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c.Keep(ctx)
	c, _ = kept(t, dir, Limits{UnusedFor: 24 * time.Hour})
	sweep(t, c)
	if has(t, c, 0, size) || !has(t, c, 1, size) || has(t, c, 2, size) {
		t.Errorf("contents 0, 1, 2 are stored: got %v, %v, %v; want only the one used within 24 hours, content 1", has(t, c, 0, size), has(t, c, 1, size), has(t, c, 2, size))
	}
}

// TestCachePassesOnTooLarge checks that content larger than MaxBlobSize is passed on without
// being stored, and leaves no temporary file.
func TestCachePassesOnTooLarge(t *testing.T) {
	c, files := kept(t, t.TempDir(), Limits{MaxBlobSize: 500, MaxSize: 5000})
	for range 2 {
		if origin := pull(t, c, 1, 1000); origin != fill.Started {
			t.Errorf("got origin %v, want %v", origin, fill.Started)
		}
	}
	if has(t, c, 1, 1000) {
		t.Error("content larger than MaxBlobSize was stored")
	}
	entries, err := os.ReadDir(filepath.Join(dirOf(files), "tmp"))
	if err != nil || len(entries) != 0 {
		t.Errorf("temporary directory: got %v and the error %v, want no files and no error", entries, err)
	}
}

// TestCacheKeepsReserve checks that nothing is stored while the disk has less free space than
// the reserve.
func TestCacheKeepsReserve(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		files, err := store.OpenFileStore(dir)
		if err != nil {
			t.Fatal(err)
		}
		c := New(&fullDisk{FileStore: files}, Limits{Reserve: 1 << 20}, Hooks{})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); c.Keep(ctx) }()
		defer func() { cancel(); <-done }()
		if pull(t, c, 1, 1000) != fill.Started || has(t, c, 1, 1000) {
			t.Error("content was stored on a disk with less free space than the reserve, or was not fetched")
		}
	})
}

// fullDisk is a store whose disk has 512 KiB of free space.
type fullDisk struct{ *store.FileStore }

func (*fullDisk) Free(context.Context) (free, total int64, err error) { return 1 << 19, 1 << 30, nil }

// TestScrubDropsDamage checks that the scrub in the background removes content in which one
// bit was flipped, which leaves its size the same, and no other content.
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
				t.Errorf("content %d is stored: got %v, want %v", n, got, n != 7)
			}
		}
		if pull(t, c, 7, size) != fill.Started {
			t.Error("the damaged content was not fetched again")
		}
	})
}

// TestCacheKeepsContentOfUnexpectedSize checks that a request with a wrong size does not make
// the cache remove the content that another request stored.
func TestCacheKeepsContentOfUnexpectedSize(t *testing.T) {
	const size = 1000
	c, _ := kept(t, t.TempDir(), Limits{})
	pull(t, c, 1, size)
	_, d := content(1, size)
	r, origin, err := c.Get(t.Context(), fill.Request{Digest: d, Size: size + 1, Fetch: func(context.Context, int64, int64, string) (*fill.Body, error) {
		return nil, fs.ErrNotExist
	}})
	if err != nil || origin != fill.Hit {
		t.Fatalf("got origin %v and the error %v, want origin %v and no error", origin, err, fill.Hit)
	}
	defer r.Close()
	if got, err := io.ReadAll(r); err != nil || len(got) != size {
		t.Errorf("got %d bytes and the error %v, want %d bytes and no error", len(got), err, size)
	}
}

// TestReaderOfEvictedContent checks that a reader still reads the whole content after the store
// has removed it.
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
		t.Errorf("got %d bytes and the error %v, want the %d bytes of the content and no error", len(got), err, len(want))
	}
}
