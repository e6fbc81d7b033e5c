package fill

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// TestAllocateBlocksBeyondDisk checks that allocating more than the disk has fails as on a
// full disk, where allocation is supported, and takes no blocks.
func TestAllocateBlocksBeyondDisk(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "spool"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := allocateBlocks(file, 0, 1<<60); !store.IsFull(err) && !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("got the error %v, want that of a full disk or %v", err, errors.ErrUnsupported)
	}
	if info, err := file.Stat(); err != nil || info.Sys().(*syscall.Stat_t).Blocks*512 != 0 {
		t.Errorf("the file takes %d bytes of the disk, the error is %v; want 0 and none", info.Sys().(*syscall.Stat_t).Blocks*512, err)
	}
}
