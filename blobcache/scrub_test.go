package blobcache

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// unreadableBlobs is a store that fails to read some of its content.
type unreadableBlobs struct {
	*store.FileStore
	unreadable map[digest.Digest]int // the number of checks that still fail
}

func (s *unreadableBlobs) Check(ctx context.Context, d digest.Digest, wait func(context.Context, int) error) error {
	if s.unreadable[d] > 0 {
		s.unreadable[d]--
		return &fs.PathError{Op: "read", Path: d.String(), Err: syscall.EIO}
	}
	return s.FileStore.Check(ctx, d, wait)
}

// TestScrub checks that Scrub counts what it finds, removes damaged content, and keeps content
// that the disk only temporarily fails to read.
func TestScrub(t *testing.T) {
	const size = 1000
	files, err := store.OpenFileStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	blobs := &unreadableBlobs{files, make(map[digest.Digest]int)}
	c := keptOn(t, blobs, Limits{})
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
	name := pathOf(dirOf(files), digests[3])
	other, _ := content(4, size)
	if err := os.WriteFile(name, other, 0o600); err != nil {
		t.Fatal(err)
	}
	blobs.unreadable[digests[5]] = 1 // a temporary failure
	blobs.unreadable[digests[6]] = 100
	var reports []Scrubbing
	found, err := c.Scrub(t.Context(), 0, func(s Scrubbing) { reports = append(reports, s) })
	if n := len(reports); n == 0 || reports[n-1].Checked != found.Checked || reports[n-1].Bytes != found.Bytes {
		t.Errorf("got reports %+v, want the last one to have what %+v has", reports, found)
	}
	if err != nil || found != told {
		t.Errorf("got %+v and the error %v, want no error and the value that the hook got, %+v", found, err, told)
	}
	found.Took = 0
	if want := (Scrubbing{Checked: 19, Bytes: 19 * size, Damaged: 2, Healed: 2}); found != want {
		t.Errorf("got %+v, want %+v", found, want)
	}
	if len(healed) != 2 || has(t, c, 3, size) || has(t, c, 6, size) || !has(t, c, 5, size) {
		t.Errorf("got the healed contents %v, want %v and %v, and content 5 kept", healed, digests[3], digests[6])
	}

	// A disk that fails every read loses no content.
	for _, d := range digests {
		blobs.unreadable[d] = 1
	}
	if found, err := c.Scrub(t.Context(), 0, nil); err != nil || found.Checked != 0 || found.Damaged != 18 || found.Healed != 0 {
		t.Errorf("every read failed: got %+v and the error %v, want 0 checked, 18 damaged, 0 healed and no error", found, err)
	}
	if found, err := c.Scrub(t.Context(), 0, nil); err != nil || found.Checked != 18 {
		t.Errorf("reads succeed again: got %+v and the error %v, want 18 checked and no error", found, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Scrub(ctx, 1, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled context: got the error %v, want context.Canceled", err)
	}
}

// dirOf returns the directory of a store.
func dirOf(s *store.FileStore) string {
	spool, err := s.Spool(context.Background())
	if err != nil {
		panic(err)
	}
	defer spool.Close()
	defer os.Remove(spool.Name())
	return filepath.Dir(filepath.Dir(spool.Name()))
}

// pathOf returns the path of the file in which a store on a directory keeps the content.
func pathOf(dir string, d digest.Digest) string {
	return filepath.Join(dir, "blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded())
}

// TestScrubOfPartlyReadableStore checks that Scrub reports a directory that it cannot read, and
// still checks the rest of the store.
func TestScrubOfPartlyReadableStore(t *testing.T) {
	dir := t.TempDir()
	c, _ := kept(t, dir, Limits{})
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA512} {
		if err := c.PutBytes(t.Context(), algorithm.FromString("x"), []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "blobs", "sha384"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if found, err := c.Scrub(t.Context(), 0, nil); err == nil || found.Checked != 2 {
		t.Errorf("got %+v and the error %v, want 2 checked and an error", found, err)
	}
}

// TestScrubVerifiesDoubtfulFirst checks that the scrub in the background first verifies the
// content whose file has changed, and counts what it finds.
func TestScrubVerifiesDoubtfulFirst(t *testing.T) {
	dir := t.TempDir()
	s, err := store.OpenFileStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !s.DetectsChanges() {
		t.Skip("the file system does not keep markers")
	}
	c := keptOn(t, s, Limits{})
	told := make(chan Scrubbing, 2)
	c.hooks.Scrubbed = func(found Scrubbing) { told <- found }
	for n := range 10 {
		pull(t, c, n, 1000)
	}
	var old []digest.Digest
	for n := range 4 {
		_, d := content(n, 1000)
		then := time.Now().Add(-100 * time.Hour)
		if err := os.Chtimes(pathOf(dir, d), then, then); err != nil {
			t.Fatal(err)
		}
		old = append(old, d)
	}
	if err := os.Truncate(pathOf(dir, old[0]), 999); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var keeping sync.WaitGroup
	keeping.Go(func() { c.keepScrubbing(ctx) })
	if found := <-told; found.Checked != 4 || found.Damaged != 1 || found.Healed != 1 {
		t.Errorf("first scrub: got %+v, want 4 checked and 1 of them healed", found)
	}
	for _, d := range old[1:] {
		if e, err := s.Stat(t.Context(), d); err != nil || e.Doubtful {
			t.Errorf("%s: got %+v and the error %v, want an entry that is not doubtful and no error", d, e, err)
		}
	}
	if found := <-told; found.Checked != 9 || found.Damaged != 0 {
		t.Errorf("second scrub: got %+v, want 9 checked and none damaged", found)
	}
	cancel()
	keeping.Wait()
}
