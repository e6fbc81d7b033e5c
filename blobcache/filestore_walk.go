package blobcache

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

// Walk implements [Shelf]. One folder's names are in memory at a time: four
// thousand for a million digests.
func (s *FileStore) Walk(ctx context.Context, visit func(Entry) error) error {
	var unread error
	for _, algorithm := range []digest.Algorithm{digest.SHA256, digest.SHA384, digest.SHA512} {
		base := filepath.Join(s.root, "blobs", algorithm.String())
		folders, err := os.ReadDir(base)
		unread = errors.Join(unread, unlessAbsent(err))
		for _, folder := range folders {
			if !folder.IsDir() {
				continue // none of the store's
			}
			files, err := os.ReadDir(filepath.Join(base, folder.Name()))
			unread = errors.Join(unread, unlessAbsent(err))
			if err := visitFiles(ctx, algorithm, folder.Name(), files, visit); err != nil {
				return err
			}
		}
	}
	return unread
}

func visitFiles(ctx context.Context, algorithm digest.Algorithm, folder string, files []fs.DirEntry, visit func(Entry) error) error {
	for _, file := range files {
		d, ok := parseContent(algorithm, folder, file.Name())
		if !ok {
			continue // none of the store's
		}
		info, err := file.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue // gone meanwhile, or in the place of a file
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := visit(Entry{Digest: d, Size: info.Size(), Used: info.ModTime()}); err != nil {
			return err
		}
	}
	return nil
}

func unlessAbsent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// parseContent is the reverse of content: it reads the digest from where a file
// lives, unless it cannot be found there by its digest.
func parseContent(algorithm digest.Algorithm, folder, name string) (digest.Digest, bool) {
	d := digest.NewDigestFromEncoded(algorithm, name)
	return d, d.Validate() == nil && folder == name[:2]
}

// Stat implements [Shelf].
func (s *FileStore) Stat(_ context.Context, d digest.Digest) (Entry, error) {
	name, err := s.content(d)
	if err != nil {
		return Entry{}, err
	}
	info, err := os.Lstat(name)
	if err != nil {
		return Entry{}, err
	}
	if !info.Mode().IsRegular() {
		return Entry{}, fmt.Errorf("%s is not a file: %w", name, fs.ErrNotExist)
	}
	return Entry{Digest: d, Size: info.Size(), Used: info.ModTime()}, nil
}

// Touch implements [Shelf]. The time of last use is the file's own.
func (s *FileStore) Touch(_ context.Context, d digest.Digest, used time.Time) error {
	name, err := s.content(d)
	if err == nil {
		err = os.Chtimes(name, used, used)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil // gone meanwhile
	}
	return err
}

// Free implements [Shelf].
func (s *FileStore) Free(context.Context) (free, total int64, err error) {
	return freeSpace(s.root)
}
