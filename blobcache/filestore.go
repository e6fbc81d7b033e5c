package blobcache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
)

// FileStore is a [Shelf] and a [Ledger] in a directory:
//
//	blobs/sha256/ab/abcd…   content, by its digest
//	links/…, refs/…, …      records, by their keys
//	tmp/…                   spools, and values on their way
//
// Names appear by rename only, so several processes may share the directory.
type FileStore struct{ root string }

// OpenFileStore makes the directory if need be, proves that it can be written
// to, and removes what a crash has left in it.
func OpenFileStore(root string) (*FileStore, error) {
	s := &FileStore{root: root}
	if err := os.MkdirAll(s.temp(), 0o700); err != nil {
		return nil, fmt.Errorf("make the cache directory: %w", err)
	}
	probe, err := s.create("probe-")
	if err != nil {
		return nil, fmt.Errorf("write to the cache directory: %w", err)
	}
	_ = probe.Close()
	discard(probe)
	return s, s.sweepTemp()
}

func (s *FileStore) temp() string { return filepath.Join(s.root, "tmp") }

// content is the only place that knows where a digest lives.
func (s *FileStore) content(d digest.Digest) (string, error) {
	if err := d.Validate(); err != nil {
		return "", fmt.Errorf("content %q: %w", d, err)
	}
	hex := d.Encoded()
	return filepath.Join(s.root, "blobs", d.Algorithm().String(), hex[:2], hex), nil
}

// Open implements [Store].
func (s *FileStore) Open(_ context.Context, d digest.Digest) (io.ReadSeekCloser, error) {
	name, err := s.content(d)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		// Commit puts the content in its place.
		err = fmt.Errorf("%s is not a file: %w", file.Name(), fs.ErrNotExist)
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

// Spool implements [Store].
func (s *FileStore) Spool(context.Context) (*os.File, error) {
	return s.create("spool-")
}

// Commit implements [Store]. The bytes are synced before the name appears, so
// a crash leaves either nothing or the whole.
func (s *FileStore) Commit(_ context.Context, d digest.Digest, spool *os.File) error {
	name, err := s.content(d)
	if err != nil {
		return err
	}
	if err := spool.Sync(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	return place(spool.Name(), name)
}

// Remove implements [Store].
func (s *FileStore) Remove(_ context.Context, d digest.Digest) error {
	name, err := s.content(d)
	if err != nil {
		return err
	}
	return os.RemoveAll(name)
}

// placeTries is how often a folder is made for a name: others may remove it
// again while it is empty.
const placeTries = 100

// place renames a file to a name whose folder may not exist yet, or which
// something that is no file stands in the way of.
func place(from, to string) error {
	for try := 1; ; try++ {
		err := os.Rename(from, to)
		if err == nil || try > placeTries {
			return err
		}
		if errors.Is(err, fs.ErrNotExist) {
			if _, serr := os.Lstat(from); serr != nil {
				return err
			}
			err := os.MkdirAll(filepath.Dir(to), 0o700)
			if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrExist) {
				return err // not one that somebody's removal explains
			}
		} else if info, serr := os.Lstat(to); serr == nil && info.IsDir() {
			if err := os.RemoveAll(to); err != nil {
				return err
			}
		} else {
			return err
		}
	}
}
