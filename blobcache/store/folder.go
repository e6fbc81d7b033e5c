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

// irregular is the error for a path at which the store finds something that it
// has not created: anything but a regular file in the place of a file, or but a
// folder in the place of a folder. A symbolic link is neither, wherever it
// leads.
type irregular struct {
	path string
	mode fs.FileMode
}

func (e *irregular) Error() string { return e.path + " is " + kindOf(e.mode) }

// Is makes the error an [ErrDamaged].
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

// irregularAt returns an irregular error if the path is neither a regular file
// nor, if wantFolder is set, a folder. Otherwise it returns err, the error of
// opening it. A regular file in the place of a folder is not irregular.
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

// kindErrors are the errors of opening a path of the wrong kind.
var kindErrors = []error{syscall.ELOOP, syscall.EMLINK, syscall.ENXIO, syscall.ENOTDIR}

// folder opens the folder at a path, without following symbolic links below the
// root. The root itself may be one.
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

// open opens a regular file below the root, without following symbolic links
// and without waiting for the other end of a pipe.
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

// unlink removes what is at a path below the root, or the symbolic link that is
// in the place of one of its folders.
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

// clear removes what an irregular error names, and reports it to StorageError.
// It returns true if err was such an error and the removal succeeded.
func (s *FileStore) clear(err error) bool {
	var other *irregular
	if !errors.As(err, &other) {
		return false
	}
	rerr := s.unlink(other.path)
	if s.StorageError != nil {
		s.StorageError("remove a foreign file", errors.Join(fmt.Errorf("%w", other), rerr))
	}
	return rerr == nil
}
