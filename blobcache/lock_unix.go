//go:build linux || darwin || freebsd

package blobcache

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// lockFile tries to lock a file until it is closed, without waiting. A lock is
// of the opening, so it keeps out others in this process as well.
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

// diskFull tells that an error is for want of space, of files or of quota.
func diskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
