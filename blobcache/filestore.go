package blobcache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// orphanAge is how long a temporary file must not have been written to before
// it is taken for the remains of a crash. A living fill writes within minutes
// or ends.
const orphanAge = time.Hour

// FileStore is a [Store] and [Records] in a directory:
//
//	blobs/sha256/ab/abcd…   content, by its digest
//	links/…, refs/…         records, by their keys
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
	probe, err := os.CreateTemp(s.temp(), "probe-")
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

// record is the only place that knows where a record lives: anywhere but among
// the content and the temporary files.
func (s *FileStore) record(key string) (string, error) {
	name, err := filepath.Localize(key)
	top, _, _ := strings.Cut(key, "/")
	if err != nil || top == "." || strings.EqualFold(top, "blobs") || strings.EqualFold(top, "tmp") {
		return "", fmt.Errorf("record %q: %w", key, fs.ErrInvalid)
	}
	return filepath.Join(s.root, name), nil
}

func (s *FileStore) sweepTemp() error {
	entries, err := os.ReadDir(s.temp())
	if err != nil {
		return fmt.Errorf("list temporary files: %w", err)
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err == nil && time.Since(info.ModTime()) > orphanAge {
			_ = os.RemoveAll(filepath.Join(s.temp(), entry.Name()))
		}
	}
	return nil
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
	return os.CreateTemp(s.temp(), "spool-")
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

// Load implements [Records].
func (s *FileStore) Load(_ context.Context, key string) ([]byte, error) {
	name, err := s.record(key)
	if err != nil {
		return nil, err
	}
	return os.ReadFile(name)
}

// Save implements [Records]. It does not sync: a record that a crash has cut
// is unreadable, which its readers take for absent.
func (s *FileStore) Save(_ context.Context, key string, value []byte) error {
	name, err := s.record(key)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(s.temp(), "record-")
	if err != nil {
		return err
	}
	_, err = file.Write(value)
	err = errors.Join(err, file.Close())
	if err == nil {
		err = place(file.Name(), name)
	}
	if err != nil {
		discard(file)
	}
	return err
}

// place renames a file to a name whose folder may not exist yet, or which
// something that is no file stands in the way of.
func place(from, to string) error {
	err := os.Rename(from, to)
	if err == nil {
		return nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			return err
		}
	} else if info, serr := os.Lstat(to); serr == nil && info.IsDir() {
		if err := os.RemoveAll(to); err != nil {
			return err
		}
	}
	return os.Rename(from, to)
}
