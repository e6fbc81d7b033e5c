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

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// TestClockJumps: a clock that is wrong does not make everything old, and what
// was used while it was wrong is not young for ever.
func TestClockJumps(t *testing.T) {
	const size, day = 1000, 24 * time.Hour
	c, opened := kept(t, t.TempDir(), Limits{UnusedFor: day})
	for n := range 3 {
		pull(t, c, n, size)
	}
	k := c.keeper
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

// TestRemovedCountsAtOnce: the room of what was damaged is there for others
// before the next walk.
func TestRemovedCountsAtOnce(t *testing.T) {
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
	if got := c.keeper.stored; got != size {
		t.Errorf("%d bytes are counted", got)
	}
}

// fewFiles is a disk on which there is room for a number of files, whatever
// their size.
type fewFiles struct {
	*store.FileStore
	most int
}

func (s *fewFiles) Spool(ctx context.Context) (*os.File, error) {
	files := 0
	_ = s.Walk(ctx, func(store.Entry) error { files++; return nil })
	if files >= s.most {
		return nil, &fs.PathError{Op: "open", Path: "tmp", Err: syscall.ENOSPC}
	}
	return s.FileStore.Spool(ctx)
}

// TestNoInodes: bytes are free and files are not. Pulls go on, and old content
// makes way for new.
func TestNoInodes(t *testing.T) {
	const size, most = 1000, 8
	opened, err := store.OpenFileStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c := keptOn(t, &fewFiles{opened, most}, Limits{})
	for n := range most {
		pull(t, c, n, size)
		age(t, opened, n, size, time.Duration(100-n)*time.Hour)
	}
	c.keeper.uses.take()
	if pull(t, c, 100, size) != Led || has(t, c, 100, size) {
		t.Error("there is no room for it yet")
	}
	select {
	case <-c.keeper.kick:
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

// stuckShelf neither removes nor records anything, as after a remount for
// reading.
type stuckShelf struct {
	*store.FileStore
	removes int
}

func (s *stuckShelf) Remove(context.Context, digest.Digest) error {
	s.removes++
	return syscall.EROFS
}

func (*stuckShelf) Touch(context.Context, digest.Digest, time.Time) error { return syscall.EROFS }

// TestReadOnlyDisk: pulls go on, and a sweep does not try for ever.
func TestReadOnlyDisk(t *testing.T) {
	const size = 100
	opened, err := store.OpenFileStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	shelf := &stuckShelf{FileStore: opened}
	c := keptOn(t, shelf, Limits{})
	for n := range 3 * evictErrors {
		pull(t, c, n, size)
	}
	c.keeper.limits.MaxSize = size
	c.keeper.uses.take()
	stuck, err := c.keeper.sweep(t.Context())
	if !stuck || err != nil || shelf.removes != evictErrors {
		t.Errorf("stuck: %v, %v after %d tries", stuck, err, shelf.removes)
	}
	if pull(t, c, 1, size) != Hit {
		t.Error("what is there should be a hit")
	}
}

// dimFolders has content that no walk sees.
type dimFolders struct {
	*store.FileStore
	unseen map[digest.Digest]bool
}

func (s *dimFolders) Walk(ctx context.Context, visit func(store.Entry) error) error {
	return errors.Join(s.FileStore.Walk(ctx, func(e store.Entry) error {
		if s.unseen[e.Digest] {
			return nil
		}
		return visit(e)
	}), syscall.EIO)
}

// TestSweepOfWhatIsSeen: a folder that cannot be read keeps nothing else from
// being swept, and makes no room of itself.
func TestSweepOfWhatIsSeen(t *testing.T) {
	const size = 1000
	opened, err := store.OpenFileStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	shelf := &dimFolders{opened, make(map[digest.Digest]bool)}
	c := keptOn(t, shelf, Limits{MaxSize: 20 * size})
	for n := range 10 {
		pull(t, c, n, size)
	}
	for n := range 5 {
		_, d := content(n, size)
		shelf.unseen[d] = true
	}
	sweep(t, c)
	if c.keeper.stored != 10*size {
		t.Errorf("%d bytes are counted", c.keeper.stored)
	}
	c.keeper.limits.MaxSize = 8 * size
	sweep(t, c)
	left := 0
	for n := range 10 {
		if has(t, c, n, size) {
			left++
		}
	}
	if left != 7 || c.keeper.stored != 7*size {
		t.Errorf("%d are left, %d bytes are counted", left, c.keeper.stored)
	}
}

// TestSweepInRounds has more victims than are held at a time.
func TestSweepInRounds(t *testing.T) {
	shelf := &shrinkingShelf{paperShelf: paperShelf{n: 3 * sweepVictims}, gone: make(map[digest.Digest]bool)}
	k := newKeeper(shelf, Limits{MaxSize: 1000 * sweepVictims / 2, Reserve: -1}, Hooks{})
	if stuck, err := k.sweep(t.Context()); stuck || err != nil {
		t.Errorf("stuck: %v, %v", stuck, err)
	}
	if left := 3*sweepVictims - len(shelf.gone); left > sweepVictims/2*9/10 || left < sweepVictims/2*8/10 || k.stored != int64(left)*1000 {
		t.Errorf("%d are left, %d bytes are counted", left, k.stored)
	}
}

type shrinkingShelf struct {
	paperShelf
	gone map[digest.Digest]bool
}

func (s *shrinkingShelf) Walk(ctx context.Context, visit func(store.Entry) error) error {
	return s.paperShelf.Walk(ctx, func(e store.Entry) error {
		if s.gone[e.Digest] {
			return nil
		}
		return visit(e)
	})
}

func (s *shrinkingShelf) Remove(_ context.Context, d digest.Digest) error {
	s.gone[d] = true
	return nil
}
