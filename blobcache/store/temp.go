package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Temporary files are locked as long as they are open, by flock(2) where there
// is one: the lock ends with the process, however that ends. So what a crash
// has left is known from what is being written, also by another process that
// shares the directory. Nothing else hangs on these locks.

// orphanAge is how long a temporary file must not have been written to before
// it is taken for the remains of a crash where there are no locks. A living
// fill writes within minutes or ends.
const orphanAge = time.Hour

// lockState is what came of trying to lock a temporary file.
type lockState int

const (
	lockTaken   lockState = iota // by this try
	lockHeld                     // by another
	lockUnknown                  // there are no locks here
)

// createTries is how often a temporary file may be swept away by a process that
// starts just between its creation and its lock.
const createTries = 10

// create makes a temporary file that no sweep takes for an orphan.
func (s *FileStore) create(prefix string) (*os.File, error) {
	for range createTries {
		f, err := s.folder(s.temp())
		if err != nil {
			return nil, err
		}
		file, err := f.create(prefix + rand.Text())
		f.close()
		if err != nil {
			return nil, err
		}
		switch lockFile(file) {
		case lockUnknown:
			return file, nil
		case lockTaken:
			if named(file) {
				return file, nil
			}
		}
		_ = file.Close()
	}
	return nil, errors.New("temporary files do not last")
}

// named tells whether a file still has its name.
func named(file *os.File) bool {
	ours, err := file.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(file.Name())
	return err == nil && os.SameFile(ours, there)
}

// sweepTemp removes what no living process writes to.
func (s *FileStore) sweepTemp() error {
	entries, err := s.list(s.temp())
	if err != nil {
		return fmt.Errorf("list temporary files: %w", err)
	}
	for _, entry := range entries {
		name := filepath.Join(s.temp(), entry.Name())
		if entry.Type().IsRegular() {
			s.sweepFile(name)
		} else if info, err := entry.Info(); err == nil && time.Since(info.ModTime()) > orphanAge {
			_ = os.RemoveAll(name) // none of the store's
		}
	}
	return nil
}

// sweepFile removes a file while it holds its lock: whoever has just made it
// finds out when it gets the lock.
func (s *FileStore) sweepFile(name string) {
	file, info, err := s.open(name, os.O_RDWR)
	if err != nil {
		return
	}
	defer file.Close()
	orphan := false
	switch lockFile(file) {
	case lockTaken:
		orphan = true
	case lockUnknown:
		orphan = time.Since(info.ModTime()) > orphanAge
	}
	if orphan {
		_ = os.Remove(name)
	}
}
