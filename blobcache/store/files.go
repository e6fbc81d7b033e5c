package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/singleflight"
)

// FileStore implements [Blobs] and [Records] in a directory:
//
//	blobs/sha256/ab/abcd…   content, by its digest
//	links/…, refs/…, …      records, by their keys
//	tmp/…                   spools, and values on their way
//
// Names appear by rename only, so several processes may share the directory.
// FileStore opens regular files only and removes anything else, such as a
// symbolic link, that it finds in the place of a file or folder. Content that
// something else has written to is recognized by the time of its file, and
// verified before it is opened.
type FileStore struct {
	// StorageError, if not nil, is called for what the store repairs itself and
	// for what it cannot repair. It must be set before the store is used.
	StorageError func(op string, err error)

	root string
	// coarse is set if the file system drops the marker of verified content.
	coarse bool
	checks singleflight.Group
	// unmarked describes verified files that cannot be marked, for example
	// those of another user.
	unmarked *lru.Cache[digest.Digest, fs.FileInfo]
}

// unmarkedEntries is the number of such files that are remembered.
const unmarkedEntries = 4 << 10

// OpenFileStore creates the directory if it does not exist, checks that it is
// writable, and removes temporary files that a crash has left.
func OpenFileStore(root string) (*FileStore, error) {
	unmarked, err := lru.New[digest.Digest, fs.FileInfo](unmarkedEntries)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	s := &FileStore{root: filepath.Clean(root), unmarked: unmarked}
	if _, err := s.lstat(s.temp()); errors.Is(err, ErrDamaged) && !isFolder(s.temp()) {
		if err := s.unlink(s.temp()); err != nil {
			return nil, fmt.Errorf("make the cache directory: %w", err)
		}
	}
	if err := os.MkdirAll(s.temp(), 0o700); err != nil {
		return nil, fmt.Errorf("make the cache directory: %w", err)
	}
	probe, err := s.create("probe-")
	if err != nil {
		return nil, fmt.Errorf("write to the cache directory: %w", err)
	}
	keeps, err := s.keepsMarkers(probe)
	s.coarse = !keeps
	_ = probe.Close()
	Discard(probe)
	if err != nil {
		return nil, fmt.Errorf("set times in the cache directory: %w", err)
	}
	return s, s.sweepTemp()
}

// DetectsChanges reports whether the file system keeps times to the
// microsecond, so that content that something else has written to is recognized
// when it is opened. Otherwise only its size and [FileStore.Check] show such
// changes.
func (s *FileStore) DetectsChanges() bool { return !s.coarse }

func (s *FileStore) temp() string { return filepath.Join(s.root, "tmp") }

// content returns the file of a digest. No other function knows where content
// is stored.
func (s *FileStore) content(d digest.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", fmt.Errorf("content %q: %w", d, err)
	}
	hex := d.Encoded()
	return filepath.Join(s.root, "blobs", d.Algorithm().String(), hex[:2], hex), nil
}

// Spool implements [Blobs].
func (s *FileStore) Spool(context.Context) (*os.File, error) {
	return s.create("spool-")
}

// Commit implements [Blobs]. It syncs the bytes before the name appears, so
// after a crash the content is whole or absent.
func (s *FileStore) Commit(_ context.Context, d digest.Digest, spool *os.File) error {
	name, err := s.content(d)
	if err != nil {
		return err
	}
	if err := spool.Sync(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return s.keep(d, spool, name)
}

// keep marks a spool as verified and renames it.
func (s *FileStore) keep(d digest.Digest, spool *os.File, name string) error {
	info, err := spool.Stat()
	if err != nil {
		return err
	}
	if err := setTimes(spool, stamped(info.ModTime(), d, info.Size())); err != nil {
		return err
	}
	return s.place(spool.Name(), name)
}

// Remove implements [Blobs].
func (s *FileStore) Remove(_ context.Context, d digest.Digest) error {
	name, err := s.content(d)
	if err != nil {
		return err
	}
	return s.unlink(name)
}

// placeTries is how often the folder of a name is created. Others may remove it
// while it is empty.
const placeTries = 100

// place renames a file. It creates the folder of the new name, and removes what
// stands in the way and is not a file.
func (s *FileStore) place(from, to string) error {
	for try := 1; ; try++ {
		err := s.rename(from, to)
		if err == nil || try > placeTries {
			return err
		}
		if s.clear(err) {
			continue
		}
		if errors.Is(err, fs.ErrNotExist) {
			if _, serr := os.Lstat(from); serr != nil {
				return err
			}
			err := os.MkdirAll(filepath.Dir(to), 0o700)
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) {
				return err // a concurrent removal does not explain it
			}
		} else if isFolder(to) {
			if err := s.unlink(to); err != nil {
				return err
			}
		} else {
			return err
		}
	}
}

func (s *FileStore) rename(from, to string) error {
	f, err := s.folder(filepath.Dir(to))
	if err != nil {
		return err
	}
	defer f.close()
	return f.rename(from, filepath.Base(to))
}

func isFolder(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.IsDir()
}

// Discard removes a spool's temporary file, if there is a spool. The open file
// stays readable.
func Discard(spool *os.File) {
	if spool != nil {
		_ = os.Remove(spool.Name())
	}
}
