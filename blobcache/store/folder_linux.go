package store

import (
	"errors"
	"io/fs"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// folderFlags are the flags to open a folder for access to its entries, or a
// file to describe it.
const folderFlags = unix.O_PATH

// openAtOnce opens a regular file unless a folder of its path is a symbolic
// link, even above the root. That is faster than opening each folder in turn.
// It returns [errors.ErrUnsupported] for symbolic links, on kernels before 5.6,
// and in containers that forbid the call.
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

// setTimes sets the times of an open file, whether or not it still has its
// name. Package unix has futimens(2) only for names.
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
