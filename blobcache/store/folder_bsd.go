//go:build darwin || freebsd

package store

import (
	"errors"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// folderFlags are the flags to open a folder for access to its entries, or a
// file to describe it.
const folderFlags = unix.O_RDONLY

// openAtOnce is unsupported on this platform: each folder is opened in turn.
func openAtOnce(string, int) (*os.File, fs.FileInfo, error) {
	return nil, nil, errors.ErrUnsupported
}

// setTimes sets the times of an open file, whether or not it still has its
// name.
func setTimes(file *os.File, at time.Time) error {
	conn, err := file.SyscallConn()
	if err != nil {
		return err
	}
	tv := unix.NsecToTimeval(at.UnixNano())
	var failed error
	if err := conn.Control(func(fd uintptr) {
		failed = unix.Futimes(int(fd), []unix.Timeval{tv, tv})
	}); err != nil {
		return err
	}
	if failed != nil {
		return &os.PathError{Op: "set times of", Path: file.Name(), Err: failed}
	}
	return nil
}
