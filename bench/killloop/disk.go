package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// stored identifies a stored file that has been checked.
type stored struct {
	name  string
	inode uint64
	size  int64
}

// checkStored hashes the stored blobs that have not been checked yet, and records
// those whose digest is not their name. Caddy must not be running.
func (l *loop) checkStored() error {
	return filepath.WalkDir(filepath.Join(l.cache(), "blobs"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		id := stored{entry.Name(), info.Sys().(*syscall.Stat_t).Ino, info.Size()}
		if l.checked[id] {
			return nil
		}
		sum, err := sumOf(path)
		if err != nil {
			return err
		}
		if sum != entry.Name() {
			l.damaged = append(l.damaged, fmt.Sprintf("%s of %d bytes is stored with the digest %s", entry.Name(), info.Size(), sum))
		}
		l.checked[id] = true
		return nil
	})
}

// sumOf returns the SHA-256 of a file in hexadecimal.
func sumOf(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// temporary lists the temporary files of the cache.
func (l *loop) temporary() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(l.cache(), "tmp"))
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names, err
}
