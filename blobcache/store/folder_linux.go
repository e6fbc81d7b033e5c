package store

import (
	"errors"
	"io/fs"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// folderFlags opens a folder for what is done in it by name, or a file to look at it.
const folderFlags = unix.O_PATH

// openAtOnce opens a regular file if no folder of its path is a symbolic link, not
// even one above the root. It is faster than to open each folder in turn, which is
// to be done where it is unsupported: also by kernels before 5.6, and in containers
// that forbid it.
func openAtOnce(path string, flag int) (*os.File, fs.FileInfo, error) {
	how := unix.OpenHow{Flags: uint64(flag | unix.O_NOFOLLOW | unix.O_CLOEXEC), Resolve: unix.RESOLVE_NO_SYMLINKS}
	if flag&unix.O_PATH == 0 { // with which the kernel refuses them
		how.Flags |= unix.O_NONBLOCK | unix.O_LARGEFILE
	}
	fd, err := again(func() (int, error) { return unix.Openat2(unix.AT_FDCWD, path, &how) })
	switch err {
	case nil:
		return regularFile(fd, path)
	case unix.ENOENT:
		return nil, nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return nil, nil, errors.ErrUnsupported
}

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
