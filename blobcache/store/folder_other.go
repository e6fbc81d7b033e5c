//go:build !linux && !darwin && !freebsd

package store

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// folderFlags are the flags to open a file to describe it.
const folderFlags = os.O_RDONLY

// openAtOnce is unsupported on this platform: each folder is checked in turn.
func openAtOnce(string, int) (*os.File, fs.FileInfo, error) {
	return nil, nil, errors.ErrUnsupported
}

// folder is a folder of a store that has been checked. On this platform it is
// not held open, so a link that replaces it at the same moment is followed.
type folder struct{ path string }

// openFolder checks the folders below a root, given by their names. Only the
// root may be a symbolic link.
func openFolder(root string, names []string) (*folder, error) {
	if _, err := os.Stat(root); err != nil {
		return nil, err
	}
	f := &folder{root}
	for _, name := range names {
		f.path = filepath.Join(f.path, name)
		info, err := os.Lstat(f.path)
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			return nil, irregularAt(f.path, true, fs.ErrInvalid)
		}
	}
	return f, nil
}

func (f *folder) close() {}

// open opens a regular file in the folder.
func (f *folder) open(name string, flag int) (*os.File, fs.FileInfo, error) {
	path := filepath.Join(f.path, name)
	info, err := os.Lstat(path)
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, &irregular{path, info.Mode()}
	}
	file, err := os.OpenFile(path, flag, 0)
	if err != nil {
		return nil, nil, err
	}
	opened, err := file.Stat()
	if err == nil && !os.SameFile(info, opened) {
		err = &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist} // it was replaced at this moment
	}
	if err != nil {
		_ = file.Close()
		return nil, nil, err
	}
	return file, opened, nil
}

// create creates a file in the folder for reading and writing.
func (f *folder) create(name string) (*os.File, error) {
	return os.OpenFile(filepath.Join(f.path, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

// entries lists the folder.
func (f *folder) entries() ([]fs.DirEntry, error) { return os.ReadDir(f.path) }

// rename gives the file at a path a name in the folder.
func (f *folder) rename(from, name string) error {
	return os.Rename(from, filepath.Join(f.path, name))
}

// unlink removes a name.
func (f *folder) unlink(name string) error { return os.Remove(filepath.Join(f.path, name)) }

// setTimes sets the times of an open file.
func setTimes(file *os.File, at time.Time) error { return os.Chtimes(file.Name(), at, at) }
