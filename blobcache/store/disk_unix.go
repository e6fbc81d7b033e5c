//go:build linux || darwin || freebsd

package store

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// freeSpace returns the bytes that an unprivileged process may still write, and
// the size of the disk.
func freeSpace(path string) (free, total int64, err error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err != nil {
		return 0, 0, err
	}
	return int64(stat.Bavail) * int64(stat.Bsize), int64(stat.Blocks) * int64(stat.Bsize), nil
}

// lockFile tries to lock a file until it is closed, and does not wait. The lock
// belongs to the open file, so it also excludes others in this process.
func lockFile(file *os.File) (state lockState) {
	state = lockUnknown
	conn, err := file.SyscallConn()
	if err != nil {
		return state
	}
	_ = conn.Control(func(fd uintptr) {
		switch err := unix.Flock(int(fd), unix.LOCK_EX|unix.LOCK_NB); {
		case err == nil:
			state = lockTaken
		case errors.Is(err, unix.EWOULDBLOCK):
			state = lockHeld
		}
	})
	return state
}

// IsFull reports whether an error is due to a lack of space, of inodes, or of
// quota.
func IsFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
