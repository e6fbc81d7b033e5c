package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// irregular is the error for a path of the store at which something stands that
// the store has not made: not a regular file in the place of a file, not a
// folder in the place of a folder. A symbolic link is neither, wherever it leads.
type irregular struct {
	path string
	mode fs.FileMode
}

func (e *irregular) Error() string { return e.path + " is " + kindOf(e.mode) }

// Is reports that what should be there is damaged.
func (e *irregular) Is(target error) bool { return target == ErrDamaged }

func kindOf(mode fs.FileMode) string {
	switch mode.Type() {
	case 0:
		return "a file"
	case fs.ModeDir:
		return "a folder"
	case fs.ModeSymlink:
		return "a symbolic link"
	case fs.ModeNamedPipe:
		return "a named pipe"
	case fs.ModeSocket:
		return "a socket"
	}
	return "a device"
}

// irregularAt returns an error that names the kind of file at a path if that is
// neither a regular file nor, where one is wanted, a folder. Otherwise it returns
// err, the error of opening it. A regular file in the place of a folder is not
// reported as irregular.
func irregularAt(path string, wantFolder bool, err error) error {
	info, lerr := os.Lstat(path)
	if lerr == nil && !info.Mode().IsRegular() && !(wantFolder && info.IsDir()) {
		return &irregular{path, info.Mode()}
	}
	if (lerr != nil || info.IsDir() == wantFolder) && slices.Contains(kindErrors, err) {
		err = fs.ErrNotExist // it was not a file, and is gone by now
	}
	return &fs.PathError{Op: "open", Path: path, Err: err}
}

// kindErrors are what opening gives for what is not of the kind that is wanted.
var kindErrors = []error{syscall.ELOOP, syscall.EMLINK, syscall.ENXIO, syscall.ENOTDIR}

// folder opens the folder of a path below the root, without following a symbolic
// link below it. The root itself may be one.
func (s *FileStore) folder(path string) (*folder, error) {
	rel, err := filepath.Rel(s.root, path)
	if err != nil {
		return nil, err
	}
	if rel == "." {
		return openFolder(s.root, nil)
	}
	return openFolder(s.root, strings.Split(rel, string(filepath.Separator)))
}

// open opens a regular file below the root as it is, without following a symbolic
// link and without waiting for the other end of a pipe.
func (s *FileStore) open(path string, flag int) (*os.File, fs.FileInfo, error) {
	if file, info, err := openAtOnce(path, flag); !errors.Is(err, errors.ErrUnsupported) {
		return file, info, err
	}
	f, err := s.folder(filepath.Dir(path))
	if err != nil {
		return nil, nil, err
	}
	defer f.close()
	return f.open(filepath.Base(path), flag)
}

// lstat describes the regular file at a path below the root.
func (s *FileStore) lstat(path string) (fs.FileInfo, error) {
	file, info, err := s.open(path, folderFlags)
	if err != nil {
		return nil, err
	}
	return info, file.Close()
}

// unlink removes what stands at a path below the root, if anything does, or the
// symbolic link that stands in the place of one of its folders.
func (s *FileStore) unlink(path string) error {
	f, err := s.folder(filepath.Dir(path))
	var other *irregular
	switch {
	case errors.As(err, &other):
		return os.Remove(other.path)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	defer f.close()
	if err = f.unlink(filepath.Base(path)); err != nil {
		if info, lerr := os.Lstat(path); lerr == nil && info.IsDir() {
			return os.RemoveAll(path)
		}
	}
	return unlessAbsent(err)
}

// clear removes what an error says to stand in the place of a file or folder of
// the store, and tells of it. It reports whether that was all that was wrong.
func (s *FileStore) clear(err error) bool {
	var other *irregular
	if !errors.As(err, &other) {
		return false
	}
	rerr := s.unlink(other.path)
	if s.Trouble != nil {
		s.Trouble("remove what is not of the cache", errors.Join(fmt.Errorf("%w", other), rerr))
	}
	return rerr == nil
}
