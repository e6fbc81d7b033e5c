package blobcache

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// takesBlocks tells by its magic number whether a file system takes the blocks
// that it is asked for, and at once. Of others, ZFS only looks whether there is
// room, and memory has no blocks to look for: taking all of it would hold up the
// first byte.
func takesBlocks(magic uint32) bool {
	switch magic {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC:
		return true
	}
	return false
}

// allocateBlocks takes the disk's blocks for so many bytes of a file from an offset
// on, and leaves the file's size alone.
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
			// It would take all there is before it found out.
			err = unix.ENOSPC
		default:
			err = unix.Fallocate(int(fd), unix.FALLOC_FL_KEEP_SIZE, from, size)
		}
	})
	return errors.Join(cerr, err)
}
