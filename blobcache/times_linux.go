package blobcache

import (
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// folderFlags opens a folder for what is done in it by name.
const folderFlags = unix.O_PATH

// setTimes sets the times of an open file, whatever its name stands for by now:
// futimens(2), which the package unix has only for names.
func setTimes(file *os.File, at time.Time) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	ts, err := unix.TimeToTimespec(at)
	if err != nil {
		return &os.PathError{Op: "set times of", Path: file.Name(), Err: err}
	}
	times := [2]unix.Timespec{ts, ts}
	var errno unix.Errno
	if err := conn.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall6(unix.SYS_UTIMENSAT, fd, 0, uintptr(unsafe.Pointer(&times)), 0, 0, 0)
	}); err != nil {
		return err
	}
	if errno != 0 {
		return &os.PathError{Op: "set times of", Path: file.Name(), Err: errno}
	}
	return nil
}
