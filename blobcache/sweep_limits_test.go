package blobcache

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// TestSweepWithJumpingClock: a clock that is wrong does not make everything old, and what
// was used while it was wrong is not young for ever.
func TestSweepWithJumpingClock(t *testing.T) {
	const size, day = 1000, 24 * time.Hour
	c, opened := kept(t, t.TempDir(), Limits{UnusedFor: day})
	for n := range 3 {
		pull(t, c, n, size)
	}
	k := c.evictor
	k.writeUses(t.Context())
	age(t, opened, 0, size, 23*time.Hour)
	age(t, opened, 2, size, -1000*day) // the clock was in the future

	k.clock.wall = k.clock.wall.Add(-100 * day) // has jumped ahead since the start
	sweep(t, c)
	if !has(t, c, 0, size) || !has(t, c, 1, size) {
		t.Error("a jump of the clock made content old")
	}
	k.clock.wall = k.clock.wall.Add(100 * day)
	k.clock.began = time.Now() // the process has just started
	age(t, opened, 0, size, 100*day)
	sweep(t, c)
	if !has(t, c, 0, size) {
		t.Error("content is old before the clock can have been set")
	}
	k.clock.began = time.Now().Add(-clockGrace)
	age(t, opened, 2, size, -1000*day)
	sweep(t, c)
	if has(t, c, 0, size) || !has(t, c, 1, size) || !has(t, c, 2, size) {
		t.Error("what is old should be gone, and nothing else")
	}
	_, d := content(2, size)
	if e, err := opened.Stat(t.Context(), d); err != nil || time.Until(e.Used) > time.Minute {
		t.Errorf("used in the future: %+v, %v", e, err)
	}
}

// TestCacheHealCountsAtOnce: the room of what was damaged is there for others
// before the next walk.
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
		t.Errorf("read what was damaged: %v", err)
	}
	if got := c.evictor.stored; got != size {
		t.Errorf("%d bytes are counted", got)
	}
}

// noInodesBlobs is a disk on which there is room for a number of files, whatever
// their size.
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

// TestEvictorWithoutInodes: bytes are free and files are not. Pulls go on, and old content
// makes way for new.
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
		t.Error("there is no room for it yet")
	}
	select {
	case <-c.evictor.kick:
	default:
		t.Fatal("no sweep is wanted")
	}
	sweep(t, c)
	if has(t, c, 0, size) || !has(t, c, 1, size) {
		t.Error("the oldest should have made way")
	}
	pull(t, c, 100, size)
	if !has(t, c, 100, size) {
		t.Error("not stored although there is room")
	}
	sweep(t, c)
	if !has(t, c, 1, size) {
		t.Error("a sweep removes more although nothing is wanted")
	}
}

// readOnlyBlobs neither removes nor records anything, as after a remount for
// reading.
type readOnlyBlobs struct {
	*store.FileStore
	removes int
}

func (s *readOnlyBlobs) Remove(context.Context, digest.Digest) error {
	s.removes++
	return syscall.EROFS
}

func (*readOnlyBlobs) Touch(context.Context, digest.Digest, time.Time) error { return syscall.EROFS }

// TestSweepOfReadOnlyDisk: pulls go on, and a sweep does not try for ever.
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
		t.Errorf("stuck: %v, %v after %d tries", stuck, err, blobs.removes)
	}
	if pull(t, c, 1, size) != fill.Hit {
		t.Error("what is there should be a hit")
	}
}

// partlyReadableBlobs has content that no walk sees.
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

// TestSweepOfPartlyReadableStore: a folder that cannot be read keeps nothing else from
// being swept, and makes no room of itself.
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
		t.Errorf("%d bytes are counted", c.evictor.stored)
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
		t.Errorf("%d are left, %d bytes are counted", left, c.evictor.stored)
	}
}

// TestSweepInRounds has more victims than are held at a time.
func TestSweepInRounds(t *testing.T) {
	blobs := &shrinkingBlobs{fakeBlobs: fakeBlobs{n: 3 * sweepVictims}, gone: make(map[digest.Digest]bool)}
	k := newEvictor(blobs, Limits{MaxSize: 1000 * sweepVictims / 2, Reserve: -1}, Hooks{})
	if stuck, err := k.sweep(t.Context()); stuck || err != nil {
		t.Errorf("stuck: %v, %v", stuck, err)
	}
	if left := 3*sweepVictims - len(blobs.gone); left > sweepVictims/2*9/10 || left < sweepVictims/2*8/10 || k.stored != int64(left)*1000 {
		t.Errorf("%d are left, %d bytes are counted", left, k.stored)
	}
}

type shrinkingBlobs struct {
	fakeBlobs
	gone map[digest.Digest]bool
}

func (s *shrinkingBlobs) Walk(ctx context.Context, visit func(store.Entry) error) error {
	return s.fakeBlobs.Walk(ctx, func(e store.Entry) error {
		if s.gone[e.Digest] {
			return nil
		}
		return visit(e)
	})
}

func (s *shrinkingBlobs) Remove(_ context.Context, d digest.Digest) error {
	s.gone[d] = true
	return nil
}
