package blobcache

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// TestSweepWithJumpingClock checks that a jump of the clock does not make all content old,
// and that a time of use in the future is corrected.
func TestSweepWithJumpingClock(t *testing.T) {
	const size, day = 1000, 24 * time.Hour
	c, opened := kept(t, t.TempDir(), Limits{UnusedFor: day})
	for n := range 3 {
		pull(t, c, n, size)
	}
	k := c.evictor
	k.writeUses(t.Context())
	age(t, opened, 0, size, 23*time.Hour)
	age(t, opened, 2, size, -1000*day) // used while the clock was ahead

	k.clock.wall = k.clock.wall.Add(-100 * day) // the clock has jumped ahead since the start
	sweep(t, c)
	if !has(t, c, 0, size) || !has(t, c, 1, size) {
		t.Error("a sweep after a jump of the clock removed content 0 or 1, want both stored")
	}
	k.clock.wall = k.clock.wall.Add(100 * day)
	k.clock.began = time.Now() // the process has just started
	age(t, opened, 0, size, 100*day)
	sweep(t, c)
	if !has(t, c, 0, size) {
		t.Error("a sweep just after the start removed content 0, want it stored")
	}
	k.clock.began = time.Now().Add(-clockGrace)
	age(t, opened, 2, size, -1000*day)
	sweep(t, c)
	if has(t, c, 0, size) || !has(t, c, 1, size) || !has(t, c, 2, size) {
		t.Errorf("contents 0, 1 and 2: got stored %v, %v, %v, want false, true, true", has(t, c, 0, size), has(t, c, 1, size), has(t, c, 2, size))
	}
	_, d := content(2, size)
	if e, err := opened.Stat(t.Context(), d); err != nil || time.Until(e.Used) > time.Minute {
		t.Errorf("Stat: got the entry %+v and the error %v, want a time of use that is not in the future and no error", e, err)
	}
}

// TestCacheHealCountsAtOnce checks that the size of damaged content is subtracted when it
// is removed, not only at the next walk.
func TestCacheHealCountsAtOnce(t *testing.T) {
	const size = 1000
	c, opened := kept(t, t.TempDir(), Limits{MaxSize: 100 * size})
	pull(t, c, 1, size)
	pull(t, c, 2, size)
	sweep(t, c)
	_, d := content(1, size)
	name := pathOf(dirOf(opened), d)
	damaged, _ := content(3, size)
	if err := os.WriteFile(name, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.Find(t.Context(), d, size); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Find of damaged content: got the error %v, want %v", err, fs.ErrNotExist)
	}
	if got := c.evictor.stored; got != size {
		t.Errorf("got %d stored bytes, want %d", got, size)
	}
}

// noInodesBlobs is a store whose Spool fails as on a full disk once the number of stored
// files reaches the field most, whatever their size.
type noInodesBlobs struct {
	*store.FileStore
	most int
}

func (s *noInodesBlobs) Spool(ctx context.Context) (*os.File, error) {
	files := 0
	_ = s.Walk(ctx, func(store.Entry) error { files++; return nil })
	if files >= s.most {
		return nil, &fs.PathError{Op: "open", Path: "tmp", Err: syscall.ENOSPC}
	}
	return s.FileStore.Spool(ctx)
}

// TestEvictorWithoutInodes checks that pulls succeed on a disk that has free bytes but no
// free inodes, and that a sweep removes the oldest content to store new content.
func TestEvictorWithoutInodes(t *testing.T) {
	const size, most = 1000, 8
	opened, err := store.OpenFileStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c := keptOn(t, &noInodesBlobs{opened, most}, Limits{})
	for n := range most {
		pull(t, c, n, size)
		age(t, opened, n, size, time.Duration(100-n)*time.Hour)
	}
	c.evictor.uses.take()
	if pull(t, c, 100, size) != fill.Started || has(t, c, 100, size) {
		t.Error("content 100 was served from the store or stored before the sweep, want it fetched and not stored")
	}
	select {
	case <-c.evictor.kick:
	default:
		t.Fatal("got no request for a sweep, want one")
	}
	sweep(t, c)
	if has(t, c, 0, size) || !has(t, c, 1, size) {
		t.Errorf("contents 0 and 1 after the sweep: got stored %v and %v, want false and true", has(t, c, 0, size), has(t, c, 1, size))
	}
	pull(t, c, 100, size)
	if !has(t, c, 100, size) {
		t.Error("content 100 is not stored after the sweep, want it stored")
	}
	sweep(t, c)
	if !has(t, c, 1, size) {
		t.Error("the second sweep removed content 1, want it stored")
	}
}

// readOnlyBlobs is a store whose Remove and Touch fail, as after a read-only remount.
type readOnlyBlobs struct {
	*store.FileStore
	removes int
}

func (s *readOnlyBlobs) Remove(context.Context, digest.Digest) error {
	s.removes++
	return syscall.EROFS
}

func (*readOnlyBlobs) Touch(context.Context, digest.Digest, time.Time) error { return syscall.EROFS }

// TestSweepOfReadOnlyDisk checks that a sweep gives up after evictErrors failed removals
// and that stored content is still served.
func TestSweepOfReadOnlyDisk(t *testing.T) {
	const size = 100
	opened, err := store.OpenFileStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	blobs := &readOnlyBlobs{FileStore: opened}
	c := keptOn(t, blobs, Limits{})
	for n := range 3 * evictErrors {
		pull(t, c, n, size)
	}
	c.evictor.limits.MaxSize = size
	c.evictor.uses.take()
	stuck, err := c.evictor.sweep(t.Context())
	if !stuck || err != nil || blobs.removes != evictErrors {
		t.Errorf("sweep: got stuck %v and the error %v after %d removals, want true and none after %d", stuck, err, blobs.removes, evictErrors)
	}
	if pull(t, c, 1, size) != fill.Hit {
		t.Error("the stored content was fetched, want a hit")
	}
}

// partlyReadableBlobs is a store whose Walk skips the unseen content and returns an error.
type partlyReadableBlobs struct {
	*store.FileStore
	unseen map[digest.Digest]bool
}

func (s *partlyReadableBlobs) Walk(ctx context.Context, visit func(store.Entry) error) error {
	return errors.Join(s.FileStore.Walk(ctx, func(e store.Entry) error {
		if s.unseen[e.Digest] {
			return nil
		}
		return visit(e)
	}), syscall.EIO)
}

// TestSweepOfPartlyReadableStore checks that a sweep goes on when a folder cannot be read,
// and counts the content of that folder as stored.
func TestSweepOfPartlyReadableStore(t *testing.T) {
	const size = 1000
	opened, err := store.OpenFileStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	blobs := &partlyReadableBlobs{opened, make(map[digest.Digest]bool)}
	c := keptOn(t, blobs, Limits{MaxSize: 20 * size})
	for n := range 10 {
		pull(t, c, n, size)
	}
	for n := range 5 {
		_, d := content(n, size)
		blobs.unseen[d] = true
	}
	sweep(t, c)
	if c.evictor.stored != 10*size {
		t.Errorf("got %d stored bytes, want %d", c.evictor.stored, 10*size)
	}
	c.evictor.limits.MaxSize = 8 * size
	sweep(t, c)
	left := 0
	for n := range 10 {
		if has(t, c, n, size) {
			left++
		}
	}
	if left != 7 || c.evictor.stored != 7*size {
		t.Errorf("got %d contents of %d bytes left, want 7 of %d", left, c.evictor.stored, 7*size)
	}
}

// TestSweepInRounds checks that a sweep reaches the limit when it must remove more contents
// than it holds at a time.
func TestSweepInRounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the fake clock skips the rests of the walks
		const n, limit = 5 * sweepVictims / 2, sweepVictims / 4
		blobs := newShrinkingBlobs(t, n)
		k := newEvictor(blobs, Limits{MaxSize: 1000 * limit, Reserve: -1}, Hooks{})
		if stuck, err := k.sweep(t.Context()); stuck || err != nil {
			t.Errorf("sweep: got stuck %v and the error %v, want false and none", stuck, err)
		}
		if left := n - len(blobs.gone); left > limit*9/10 || left < limit*8/10 || k.stored != int64(left)*1000 {
			t.Errorf("got %d contents of %d bytes left, want %d to %d contents of 1000 bytes each", left, k.stored, limit*8/10, limit*9/10)
		}
	})
}

// shrinkingBlobs is a fakeBlobs from which content can be removed.
type shrinkingBlobs struct {
	fakeBlobs
	entries []store.Entry // generated once, since walks are many
	gone    map[digest.Digest]bool
}

func newShrinkingBlobs(t *testing.T, n int) *shrinkingBlobs {
	s := &shrinkingBlobs{fakeBlobs: fakeBlobs{n: n}, entries: make([]store.Entry, 0, n), gone: make(map[digest.Digest]bool)}
	_ = s.fakeBlobs.Walk(t.Context(), func(e store.Entry) error {
		s.entries = append(s.entries, e)
		return nil
	})
	return s
}

func (s *shrinkingBlobs) Walk(_ context.Context, visit func(store.Entry) error) error {
	for _, e := range s.entries {
		if s.gone[e.Digest] {
			continue
		}
		if err := visit(e); err != nil {
			return err
		}
	}
	return nil
}

func (s *shrinkingBlobs) Remove(_ context.Context, d digest.Digest) error {
	s.gone[d] = true
	return nil
}
