package store

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
)

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

// Load implements [Records].
func (s *FileStore) Load(_ context.Context, key string) ([]byte, error) {
	name, err := s.record(key)
	if err != nil {
		return nil, err
	}
	file, _, err := s.open(name, os.O_RDONLY)
	if s.clear(err) {
		return nil, fmt.Errorf("%w: %w", err, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(file)
}

// Save implements [Records]. It does not sync: a record that a crash has cut
// is unreadable, which its readers take for absent.
func (s *FileStore) Save(_ context.Context, key string, value []byte) error {
	name, err := s.record(key)
	if err != nil {
		return err
	}
	file, err := s.create("record-")
	if err != nil {
		return err
	}
	if _, err = file.Write(value); err == nil {
		err = s.place(file.Name(), name) // before it is closed, and its lock gone
	}
	if err != nil {
		Discard(file)
	}
	return errors.Join(err, file.Close())
}

// List implements [Records]. The names of one folder, and of those above it, are
// in memory at a time.
func (s *FileStore) List(ctx context.Context, prefix string, visit func(Record) error) error {
	name, err := s.record(prefix)
	if err != nil {
		return err
	}
	return s.listFolder(ctx, name, prefix, visit)
}

func (s *FileStore) listFolder(ctx context.Context, folder, key string, visit func(Record) error) error {
	entries, err := s.list(folder)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		key := key + "/" + entry.Name()
		if entry.IsDir() {
			if err := s.listFolder(ctx, filepath.Join(folder, entry.Name()), key, visit); err != nil {
				return err
			}
			continue
		}
		info, ok := s.regular(folder, entry)
		if !ok {
			continue
		}
		if err := visit(Record{Key: key, Used: info.ModTime()}); err != nil {
			return err
		}
	}
	return nil
}

// Mark implements [Records]. The time of last use is the file's own.
func (s *FileStore) Mark(_ context.Context, key string, used time.Time) error {
	name, err := s.record(key)
	if err != nil {
		return err
	}
	file, _, err := s.open(name, os.O_RDONLY)
	if err != nil {
		return unlessAbsent(err)
	}
	defer file.Close()
	return setTimes(file, used)
}

// Delete implements [Records]. It also removes folders that become empty, so that
// they do not accumulate.
func (s *FileStore) Delete(_ context.Context, key string) error {
	name, err := s.record(key)
	if err != nil {
		return err
	}
	if err := s.unlink(name); err != nil {
		return err
	}
	for name = filepath.Dir(name); name != s.root && os.Remove(name) == nil; {
		name = filepath.Dir(name)
	}
	return nil
}
