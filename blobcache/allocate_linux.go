package blobcache

import (
	"os"

	"golang.org/x/sys/unix"
)

// allocateBlocks takes the disk's blocks for a file's first bytes and leaves its
// size alone. Memory has no blocks to look for, and taking all of it at once
// would hold up the first byte.
func allocateBlocks(file *os.File, size int64) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var stat unix.Statfs_t
	cerr := conn.Control(func(fd uintptr) {
		if err = unix.Fstatfs(int(fd), &stat); err != nil {
			return
		}
		if stat.Type == unix.TMPFS_MAGIC || stat.Type == unix.RAMFS_MAGIC {
			err = unix.EOPNOTSUPP
			return
		}
		err = unix.Fallocate(int(fd), unix.FALLOC_FL_KEEP_SIZE, 0, size)
	})
	if cerr != nil {
		return cerr
	}
	return err
}
