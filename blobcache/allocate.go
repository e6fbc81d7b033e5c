package blobcache

import (
	"context"
	"fmt"
	"os"
)

// allocateFrom is the size in bytes from which a spool's blocks are taken in one
// go. Below it that would cost as much as it saves.
const allocateFrom = 1 << 20

// allocate takes the disk's blocks for content of a known size before its bytes
// arrive: a disk that is fuller than it seemed shows while the answer can still
// be passed on, the pieces of several workers lie in one stretch, and no write
// has to look for blocks. Where that is not sure or not quick, they come with the bytes.
func (f *fill) allocate(file *os.File, size int64) error {
	if size < allocateFrom {
		return nil
	}
	err := allocateBlocks(file, size)
	if diskFull(err) {
		return fmt.Errorf("allocate %d bytes: %w", size, err)
	}
	if err == nil {
		f.allocated = size
		f.cache.keeper.wrote(size)
	}
	return nil
}

// trim gives back the blocks for bytes that will not come: a reader may keep the
// spool open for long.
func (f *fill) trim() {
	if f.allocated <= f.written {
		return
	}
	if info, err := f.file.Stat(); err == nil {
		_ = f.file.Truncate(info.Size())
	}
}

// onDisk is how many of the disk's bytes the spool has taken.
func (f *fill) onDisk() int64 { return max(f.allocated, f.written) }

// openSpool makes a spool that has room for content of a size, -1 if unknown.
func (f *fill) openSpool(ctx context.Context, size int64) (*os.File, error) {
	if f.req.tooLarge(size) {
		return nil, errTooLarge
	}
	if err := f.cache.keeper.reserve(ctx, size); err != nil {
		return nil, err
	}
	f.reserved = max(size, 0)
	file, err := f.cache.store.Spool(ctx)
	if err != nil {
		return nil, err
	}
	if err := f.allocate(file, size); err != nil {
		discard(file)
		_ = file.Close()
		return nil, err
	}
	return file, nil
}
