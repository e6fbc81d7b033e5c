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

// stored lists the files below the cache.
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

// awaitStored waits until content is on disk, which is after clients have got
// it, and its fill has ended: until then a request may join that.
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

// blobFile is where content is.
func (s *site) blobFile(d digest.Digest) string {
	return filepath.Join(s.cache, "blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded())
}

func (s *site) isStored(d digest.Digest) bool {
	_, err := os.Stat(s.blobFile(d))
	return err == nil
}

// totals are what groups have, as last measured.
func groupTotals() (totals map[string]blobcache.Total) {
	for _, q := range quotas.All() {
		totals = q.quotas.Totals()
	}
	return totals
}

// fills are those of the one storage in use.
func (s *site) fills() (fills []fill.Progress) {
	for _, c := range caches.All() {
		fills = append(fills, c.blobs.Fills()...)
	}
	return fills
}
