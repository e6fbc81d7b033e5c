package blobcache

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// shelteredStore is a store with copies of some of its content elsewhere.
type shelteredStore struct {
	*store.FileStore
	copied map[digest.Digest]bool
	stuck  map[digest.Digest]bool
}

func (s *shelteredStore) Removable(_ context.Context, d digest.Digest) bool { return s.copied[d] }
func (s *shelteredStore) Stuck(d digest.Digest) bool                        { return s.stuck[d] }

// TestEvictorKeepsWhatHasNoCopy: content that is not stored elsewhere yet is not evicted
// for the size of the cache, only for a full disk if no copy is to be expected, and then
// with a reason of its own.
func TestEvictorKeepsWhatHasNoCopy(t *testing.T) {
	files, err := store.OpenFileStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	blobs := &shelteredStore{FileStore: files, copied: make(map[digest.Digest]bool), stuck: make(map[digest.Digest]bool)}
	const size = 1000
	c := keptOn(t, blobs, Limits{MaxSize: 10 * size})
	reasons := make(map[Reason]int)
	c.evictor.hooks.Evicted = func(_ store.Entry, why Reason, _ int64) { reasons[why]++ }
	for n := range 10 {
		pull(t, c, n, size)
	}
	sweep(t, c) // writes the uses down
	if len(reasons) != 0 {
		t.Errorf("evicted %v while nothing had a copy", reasons)
	}
	for n := range 10 {
		age(t, files, n, size, time.Duration(20-n)*time.Hour)
		_, d := content(n, size)
		blobs.copied[d] = n%2 == 1 // the oldest has no copy
	}
	sweep(t, c)
	if !has(t, c, 0, size) || has(t, c, 1, size) || reasons[ReasonSize] == 0 || reasons[ReasonLost] != 0 {
		t.Errorf("evicted %v; the oldest without a copy is stored %v, the oldest with one %v", reasons, has(t, c, 0, size), has(t, c, 1, size))
	}
	clear(blobs.copied)
	clear(reasons)
	c.evictor.Failed(syscall.ENOSPC)
	sweep(t, c)
	if len(reasons) != 0 || !has(t, c, 0, size) {
		t.Errorf("evicted %v from a full disk while copies were made", reasons)
	}
	_, d := content(4, size)
	blobs.stuck[d] = true
	c.evictor.Failed(syscall.ENOSPC)
	sweep(t, c)
	if len(reasons) != 1 || reasons[ReasonLost] != 1 || has(t, c, 4, size) {
		t.Errorf("evicted %v from a full disk, want the content that has no copy and gets none", reasons)
	}
}
