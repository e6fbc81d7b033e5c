package blobcache

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// TestClockJumps: a clock that is wrong does not make everything old, and what
// was used while it was wrong is not young for ever.
func TestClockJumps(t *testing.T) {
	const size, day = 1000, 24 * time.Hour
	c, store := kept(t, t.TempDir(), Limits{UnusedFor: day})
	for n := range 3 {
		pull(t, c, n, size)
	}
	k := c.keeper
	k.writeUses(t.Context())
	age(t, store, 0, size, 23*time.Hour)
	age(t, store, 2, size, -1000*day) // the clock was in the future

	k.clock.wall = k.clock.wall.Add(-100 * day) // has jumped ahead since the start
	sweep(t, c)
	if !has(t, c, 0, size) || !has(t, c, 1, size) {
		t.Error("a jump of the clock made content old")
	}
	k.clock.wall = k.clock.wall.Add(100 * day)
	k.clock.began = time.Now() // the process has just started
	age(t, store, 0, size, 100*day)
	sweep(t, c)
	if !has(t, c, 0, size) {
		t.Error("content is old before the clock can have been set")
	}
	k.clock.began = time.Now().Add(-clockGrace)
	age(t, store, 2, size, -1000*day)
	sweep(t, c)
	if has(t, c, 0, size) || !has(t, c, 1, size) || !has(t, c, 2, size) {
		t.Error("what is old should be gone, and nothing else")
	}
	_, d := content(2, size)
	if e, err := store.Stat(t.Context(), d); err != nil || time.Until(e.Used) > time.Minute {
		t.Errorf("used in the future: %+v, %v", e, err)
	}
}

// TestRemovedCountsAtOnce: the room of what was damaged is there for others
// before the next walk.
func TestRemovedCountsAtOnce(t *testing.T) {
	const size = 1000
	c, store := kept(t, t.TempDir(), Limits{MaxSize: 100 * size})
	pull(t, c, 1, size)
	pull(t, c, 2, size)
	sweep(t, c)
	_, d := content(1, size)
	name, err := store.content(d)
	if err != nil {
		t.Fatal(err)
	}
	damaged, _ := content(3, size)
	if err := os.WriteFile(name, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Verify(t.Context(), d); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("verified: %v", err)
	}
	if got := c.keeper.stored; got != size {
		t.Errorf("%d bytes are counted", got)
	}
}

// fewFiles is a disk on which there is room for a number of files, whatever
// their size.
type fewFiles struct {
	*FileStore
	most int
}

func (s *fewFiles) Spool(ctx context.Context) (*os.File, error) {
	files := 0
	_ = s.Walk(ctx, func(Entry) error { files++; return nil })
	if files >= s.most {
		return nil, &fs.PathError{Op: "open", Path: "tmp", Err: syscall.ENOSPC}
	}
	return s.FileStore.Spool(ctx)
}

// TestNoInodes: bytes are free and files are not. Pulls go on, and old content
// makes way for new.
func TestNoInodes(t *testing.T) {
	const size, most = 1000, 8
	store, err := OpenFileStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	c := keptOn(t, &fewFiles{store, most}, Limits{})
	for n := range most {
		pull(t, c, n, size)
		age(t, store, n, size, time.Duration(100-n)*time.Hour)
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
	*FileStore
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
	store, err := OpenFileStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	shelf := &stuckShelf{FileStore: store}
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

func (s *shrinkingShelf) Walk(ctx context.Context, visit func(Entry) error) error {
	return s.paperShelf.Walk(ctx, func(e Entry) error {
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

// dimShelf cannot read some of its content.
type dimShelf struct {
	*FileStore
	unreadable map[digest.Digest]int // how often yet
}

func (s *dimShelf) Open(ctx context.Context, d digest.Digest) (io.ReadSeekCloser, error) {
	if s.unreadable[d] > 0 {
		s.unreadable[d]--
		return nil, &fs.PathError{Op: "read", Path: d.String(), Err: syscall.EIO}
	}
	return s.FileStore.Open(ctx, d)
}

// TestScrub on demand counts what it finds, and tells a bad moment of the disk
// from damage.
func TestScrub(t *testing.T) {
	const size = 1000
	store, err := OpenFileStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	shelf := &dimShelf{store, make(map[digest.Digest]int)}
	c := keptOn(t, shelf, Limits{})
	var healed []digest.Digest
	var told Scrubbing
	c.hooks.Healed = func(d digest.Digest, _ error) { healed = append(healed, d) }
	c.hooks.Scrubbed = func(s Scrubbing) { told = s }
	var digests []digest.Digest
	for n := range 20 {
		pull(t, c, n, size)
		_, d := content(n, size)
		digests = append(digests, d)
	}
	name, err := store.content(digests[3])
	if err != nil {
		t.Fatal(err)
	}
	other, _ := content(4, size)
	if err := os.WriteFile(name, other, 0o600); err != nil {
		t.Fatal(err)
	}
	shelf.unreadable[digests[5]] = 1 // a bad moment
	shelf.unreadable[digests[6]] = 100
	found, err := c.Scrub(t.Context(), 0)
	if err != nil || found != told {
		t.Errorf("%+v, %v; the hook was told %+v", found, err, told)
	}
	found.Took = 0
	if want := (Scrubbing{Checked: 19, Bytes: 19 * size, Damaged: 2, Healed: 2}); found != want {
		t.Errorf("%+v instead of %+v", found, want)
	}
	if len(healed) != 2 || has(t, c, 3, size) || has(t, c, 6, size) || !has(t, c, 5, size) {
		t.Errorf("healed: %v", healed)
	}

	// A disk that reads nothing loses nothing.
	for _, d := range digests {
		shelf.unreadable[d] = 1
	}
	if found, err := c.Scrub(t.Context(), 0); err != nil || found.Checked != 0 || found.Damaged != 18 || found.Healed != 0 {
		t.Errorf("%+v, %v", found, err)
	}
	if found, err := c.Scrub(t.Context(), 0); err != nil || found.Checked != 18 {
		t.Errorf("%+v, %v", found, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Scrub(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := New(store, Hooks{}).Scrub(t.Context(), 0); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("without bounds: %v", err)
	}
}
