//go:build linux || darwin || freebsd

package store

import (
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// folder is an open folder of a store.
type folder struct {
	fd   int
	path string
}

// openFolder opens a folder below a root, given by the names on the way. Only
// the root may be a symbolic link.
func openFolder(root string, names []string) (*folder, error) {
	fd, err := again(func() (int, error) {
		return unix.Open(root, folderFlags|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: root, Err: err}
	}
	f := &folder{fd, root}
	for _, name := range names {
		next, err := again(func() (int, error) {
			return unix.Openat(f.fd, name, folderFlags|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		})
		f.close()
		f.path = filepath.Join(f.path, name)
		if err != nil {
			return nil, irregularAt(f.path, true, err)
		}
		f.fd = next
	}
	return f, nil
}

func (f *folder) close() { _ = unix.Close(f.fd) }

// open opens a regular file in the folder.
func (f *folder) open(name string, flag int) (*os.File, fs.FileInfo, error) {
	path := filepath.Join(f.path, name)
	fd, err := again(func() (int, error) {
		return unix.Openat(f.fd, name, flag|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, nil, irregularAt(path, false, err)
	}
	return regularFile(fd, path)
}

// regularFile returns what was opened at a path, if it is a regular file.
func regularFile(fd int, path string) (*os.File, fs.FileInfo, error) {
	file := os.NewFile(uintptr(fd), path)
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &irregular{path, info.Mode()}
	}
	if err != nil {
		_ = file.Close()
		return nil, nil, err
	}
	return file, info, nil
}

// create creates a file in the folder for reading and writing.
func (f *folder) create(name string) (*os.File, error) {
	path := filepath.Join(f.path, name)
	fd, err := again(func() (int, error) {
		return unix.Openat(f.fd, name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	})
	if err != nil {
		return nil, &fs.PathError{Op: "create", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// entries lists the folder.
func (f *folder) entries() ([]fs.DirEntry, error) {
	fd, err := again(func() (int, error) {
		return unix.Openat(f.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: f.path, Err: err}
	}
	file := os.NewFile(uintptr(fd), f.path)
	defer file.Close()
	return file.ReadDir(-1)
}

// rename moves the file at a path to a name in the folder.
func (f *folder) rename(from, name string) error {
	if err := unix.Renameat(unix.AT_FDCWD, from, f.fd, name); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: filepath.Join(f.path, name), Err: err}
	}
	return nil
}

// unlink removes a name that is not a folder.
func (f *folder) unlink(name string) error {
	if err := unix.Unlinkat(f.fd, name, 0); err != nil {
		return &fs.PathError{Op: "remove", Path: filepath.Join(f.path, name), Err: err}
	}
	return nil
}

// again repeats a call that a signal has interrupted.
func again(call func() (int, error)) (n int, err error) {
	for {
		if n, err = call(); err != unix.EINTR {
			return n, err
		}
	}
}
