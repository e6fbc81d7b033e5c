package caddymodule

import (
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// stored returns the names of all files below the cache directory.
func (s *site) stored() []string {
	s.t.Helper()
	var names []string
	err := filepath.WalkDir(s.cache, func(name string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			name, err = filepath.Rel(s.cache, name)
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return names
}

// awaitStored waits until blobs are on disk and their fills have ended. Clients
// get a blob before that, and a request may still join the fill.
func (s *site) awaitStored(digests ...string) {
	s.t.Helper()
	for _, digest := range digests {
		algorithm, hex, _ := strings.Cut(digest, ":")
		name := filepath.Join(s.cache, "blobs", algorithm, hex[:2], hex)
		eventually(s.t, digest+" is stored", func() bool {
			_, err := os.Stat(name)
			return err == nil && !slices.ContainsFunc(s.fills(), func(f fill.Progress) bool { return string(f.Digest) == digest })
		})
	}
}

// blobFile returns the name of the file with the blob.
func (s *site) blobFile(d digest.Digest) string {
	return filepath.Join(s.cache, "blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded())
}

// isStored reports whether the blob is on disk.
func (s *site) isStored(d digest.Digest) bool {
	_, err := os.Stat(s.blobFile(d))
	return err == nil
}

// groupTotals returns what each group has stored, as last measured.
func groupTotals() (totals map[string]blobcache.Total) {
	for _, q := range quotas.All() {
		totals = q.quotas.Totals()
	}
	return totals
}

// fills returns the running fills of the storage.
func (s *site) fills() (fills []fill.Progress) {
	for _, c := range caches.All() {
		fills = append(fills, c.blobs.Fills()...)
	}
	return fills
}
