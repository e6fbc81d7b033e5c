package store

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Temporary files are locked while they are open, by flock(2) where it exists.
// The lock ends with the process, however that ends, so what a crash has left
// differs from what is being written, also by other processes that share the
// directory. The locks serve no other purpose.

// orphanAge is the age at which a temporary file counts as left by a crash on
// platforms without locks. A running fill writes within minutes, or ends.
const orphanAge = time.Hour

// lockState is the result of trying to lock a temporary file.
type lockState int

const (
	lockTaken   lockState = iota // by this try
	lockHeld                     // by another
	lockUnknown                  // there are no locks here
)

// createTries is how often a temporary file may be removed by a process that
// starts between its creation and its lock.
const createTries = 10

// create creates a temporary file that sweepTemp does not take for an orphan.
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
	return nil, errors.New("another process keeps removing temporary files")
}

// named reports whether a file still has its name.
func named(file *os.File) bool {
	ours, err := file.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(file.Name())
	return err == nil && os.SameFile(ours, there)
}

// sweepTemp removes temporary files that no running process writes to.
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

// sweepFile removes a file while it holds its lock. A process that has just
// created the file notices when it gets the lock.
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
