package fill

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// TestAllocateBlocksBeyondDisk: a size that no disk has room for takes nothing of
// this one, and counts as a full disk wherever blocks are taken at all.
func TestAllocateBlocksBeyondDisk(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "spool"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := allocateBlocks(file, 0, 1<<60); !store.IsFull(err) && !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("error is %v", err)
	}
	if info, err := file.Stat(); err != nil || info.Sys().(*syscall.Stat_t).Blocks*512 != 0 {
		t.Errorf("%d bytes are taken, %v", info.Sys().(*syscall.Stat_t).Blocks*512, err)
	}
}
