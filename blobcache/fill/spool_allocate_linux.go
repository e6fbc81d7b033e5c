package fill

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// takesBlocks reports whether a file system, given by its magic number,
// allocates blocks on request, and quickly. ZFS only checks whether there is
// room, and tmpfs has no blocks to find: filling it would delay the first byte.
func takesBlocks(magic uint32) bool {
	switch magic {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC:
		return true
	}
	return false
}

// allocateBlocks allocates the disk's blocks for size bytes of a file from an
// offset on. It does not change the file's size.
func allocateBlocks(file *os.File, from, size int64) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	cerr := conn.Control(func(fd uintptr) {
		var stat unix.Statfs_t
		err = unix.Fstatfs(int(fd), &stat)
		switch {
		case err != nil:
		case !takesBlocks(uint32(stat.Type)):
			err = errors.ErrUnsupported
		case uint64(size)/uint64(stat.Bsize) > stat.Bavail:
			// fallocate would take all there is before it failed.
			err = unix.ENOSPC
		default:
			err = unix.Fallocate(int(fd), unix.FALLOC_FL_KEEP_SIZE, from, size)
		}
	})
	return errors.Join(cerr, err)
}
