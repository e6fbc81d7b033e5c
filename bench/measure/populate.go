package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

const (
	// populateSize is the size of each blob in bytes. It is smaller than a disk
	// block, because the number of blobs matters.
	populateSize = 1 << 10

	// populateAge is the maximum time since the last use of a blob.
	populateAge = 90 * 24 * time.Hour
)

// populate creates a cache of many blobs that were used at random times, and marks
// them as verified.
func populate(s *settings) error {
	begin := time.Now()
	base := filepath.Join(s.cache, "blobs", "sha256")
	for i := range 256 {
		if err := os.MkdirAll(filepath.Join(base, fmt.Sprintf("%02x", i)), 0o700); err != nil {
			return err
		}
	}
	files, err := store.OpenFileStore(s.cache)
	if err != nil {
		return err
	}
	const workers = 4
	err = together(workers, func(worker int) error {
		r := rand.New(rand.NewPCG(uint64(worker), 0))
		content := make([]byte, populateSize)
		for n := worker; n < s.count; n += workers {
			binary.BigEndian.PutUint64(content, uint64(n))
			sum := sha256.Sum256(content)
			name := hex.EncodeToString(sum[:])
			used := begin.Add(-time.Duration(r.Int64N(int64(populateAge))))
			path := filepath.Join(base, name[:2], name)
			if err := os.WriteFile(path, content, 0o600); err != nil {
				return err
			}
			if err := os.Chtimes(path, used, used); err != nil {
				return err
			}
			if err := files.Check(context.Background(), digest.NewDigestFromEncoded(digest.SHA256, name), nil); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil {
		fmt.Printf("created %d blobs of %d bytes in %.1f s\n", s.count, populateSize, time.Since(begin).Seconds())
	}
	return err
}
