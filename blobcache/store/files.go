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

// FileStore is a [Blobs] and a [Records] in a directory:
//
//	blobs/sha256/ab/abcd…   content, by its digest
//	links/…, refs/…, …      records, by their keys
//	tmp/…                   spools, and values on their way
//
// Names appear by rename only, so several processes may share the directory. Only
// regular files in it are opened: what else stands in the place of a file or a
// folder, a symbolic link for instance, is removed where it is met. Content that
// somebody else has written to is noticed by the time of its file and read against
// its digest before it is opened.
type FileStore struct {
	// Trouble, if set, is told of what the store mends by itself or cannot
	// mend. It is to be set before the store is used.
	Trouble func(op string, err error)

	root string
	// coarse says that the file system drops the marker of verified content.
	coarse bool
	checks singleflight.Group
	// unmarked are files that have been verified and that cannot be marked, as they
	// then were: those of another user, for instance.
	unmarked *lru.Cache[digest.Digest, fs.FileInfo]
}

// unmarkedEntries is how many files are remembered that cannot be marked.
const unmarkedEntries = 4 << 10

// OpenFileStore makes the directory if need be, proves that it can be written
// to, and removes what a crash has left in it.
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

// DetectsChanges reports whether content that somebody else has written to is
// noticed when it is opened: the file system keeps times to the microsecond. Where
// it does not, such changes are left to the size and to [Cache.Scrub].
func (s *FileStore) DetectsChanges() bool { return !s.coarse }

func (s *FileStore) temp() string { return filepath.Join(s.root, "tmp") }

// content is the only place that knows where a digest lives.
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

// Commit implements [Blobs]. The bytes are synced before the name appears, so
// a crash leaves either nothing or the whole.
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

// keep marks a spool as verified and gives it its name.
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

// placeTries is how often a folder is made for a name: others may remove it
// again while it is empty.
const placeTries = 100

// place renames a file to a name whose folder may not exist yet, or which
// something that is no file stands in the way of.
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
				return err // not one that somebody's removal explains
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
