package blobcache

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
)

// dimShelf cannot read some of its content.
type dimShelf struct {
	*FileStore
	unreadable map[digest.Digest]int // how often yet
}

func (s *dimShelf) Check(ctx context.Context, d digest.Digest, wait func(context.Context, int) error) error {
	if s.unreadable[d] > 0 {
		s.unreadable[d]--
		return &fs.PathError{Op: "read", Path: d.String(), Err: syscall.EIO}
	}
	return s.FileStore.Check(ctx, d, wait)
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
}
