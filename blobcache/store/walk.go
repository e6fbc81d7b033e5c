package store

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
)

// Walk implements [Blobs]. It has the names of one folder in memory at a time:
// four thousand for a million digests.
func (s *FileStore) Walk(ctx context.Context, visit func(Entry) error) error {
	var unread error
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA384, digest.SHA512} {
		base := filepath.Join(s.root, "blobs", algorithm.String())
		folders, err := s.list(base)
		unread = errors.Join(unread, err)
		for _, folder := range folders {
			if !folder.IsDir() && (folder.Type().IsRegular() || len(folder.Name()) != 2) {
				continue // not a file of the store
			}
			files, err := s.list(filepath.Join(base, folder.Name()))
			unread = errors.Join(unread, err)
			if err := s.visitFiles(ctx, algorithm, filepath.Join(base, folder.Name()), files, visit); err != nil {
				return err
			}
		}
	}
	return unread
}

// list lists a folder below the root, which need not exist. It removes what is
// in its place and not a folder.
func (s *FileStore) list(path string) ([]fs.DirEntry, error) {
	f, err := s.folder(path)
	if s.clear(err) {
		return nil, nil
	}
	if err != nil {
		return nil, unlessAbsent(err)
	}
	defer f.close()
	return f.entries()
}

// regular describes a file of a walk. It removes what is in its place and not a
// regular file.
func (s *FileStore) regular(folder string, entry fs.DirEntry) (fs.FileInfo, bool) {
	info, err := entry.Info()
	if err != nil {
		return nil, false // gone meanwhile
	}
	if !info.Mode().IsRegular() {
		s.clear(&irregular{filepath.Join(folder, entry.Name()), info.Mode()})
		return nil, false
	}
	return info, true
}

func (s *FileStore) visitFiles(ctx context.Context, algorithm digest.Algorithm, folder string, files []fs.DirEntry, visit func(Entry) error) error {
	for _, file := range files {
		d, ok := parseContent(algorithm, filepath.Base(folder), file.Name())
		if !ok {
			continue // not a file of the store
		}
		info, ok := s.regular(folder, file)
		if !ok {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := visit(s.entry(d, info)); err != nil {
			return err
		}
	}
	return nil
}

func (s *FileStore) entry(d digest.Digest, info fs.FileInfo) Entry {
	return Entry{Digest: d, Size: info.Size(), Used: wholeSecond(info.ModTime()), Doubtful: !s.intact(d, info)}
}

func unlessAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// parseContent is the reverse of content: it returns the digest of a file, if
// content would return that file for it.
func parseContent(algorithm digest.Algorithm, folder, name string) (digest.Digest, bool) {
	d := digest.NewDigestFromEncoded(algorithm, name)
	return d, d.Validate() == nil && folder == name[:2]
}

// Stat implements [Blobs].
func (s *FileStore) Stat(_ context.Context, d digest.Digest) (Entry, error) {
	name, err := s.content(d)
	if err != nil {
		return Entry{}, err
	}
	info, err := s.lstat(name)
	if errors.Is(err, ErrDamaged) {
		return Entry{}, fmt.Errorf("%w: %w", err, fs.ErrNotExist)
	}
	if err != nil {
		return Entry{}, err
	}
	return s.entry(d, info), nil
}

// Touch implements [Blobs]. It sets the file's time, in whole seconds. A file
// without its marker keeps its time until it has been verified.
func (s *FileStore) Touch(_ context.Context, d digest.Digest, used time.Time) error {
	name, err := s.content(d)
	if err != nil {
		return err
	}
	file, info, err := s.open(name, os.O_RDONLY)
	if errors.Is(err, ErrDamaged) {
		return nil // it is not content, and goes when that is asked for
	}
	if err != nil {
		return unlessAbsent(err) // gone meanwhile
	}
	defer file.Close()
	if !s.intact(d, info) {
		return nil
	}
	return setTimes(file, stamped(used, d, info.Size()))
}

// Free implements [Blobs].
func (s *FileStore) Free(context.Context) (free, total int64, err error) {
	return freeSpace(s.root)
}
