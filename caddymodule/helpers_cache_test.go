package caddymodule

import (
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/admin"
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
			return err == nil && !slices.ContainsFunc(s.fills(), func(f admin.FillStatus) bool { return f.Digest == digest })
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

// storages returns the state of the storages of all sites, as the admin API shows it, even
// if the site has no admin endpoint.
func (s *site) storages() []admin.CacheStatus {
	s.t.Helper()
	module, err := caddy.GetModule("admin.api.dependency_proxy")
	if err != nil {
		s.t.Fatal(err)
	}
	for _, route := range module.New().(caddy.AdminRouter).Routes() {
		if route.Pattern != adminCacheStatus {
			continue
		}
		var list admin.CacheList
		w := httptest.NewRecorder()
		err := route.Handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, adminCacheStatus, nil))
		if err == nil {
			err = json.Unmarshal(w.Body.Bytes(), &list)
		}
		if err != nil {
			s.t.Fatal(err)
		}
		return list.Caches
	}
	s.t.Fatal("the admin API does not show the storages")
	return nil
}

// groupTotals returns what each group has stored, as last measured.
func (s *site) groupTotals() map[string]admin.GroupUsage {
	s.t.Helper()
	totals := make(map[string]admin.GroupUsage)
	for _, storage := range s.storages() {
		maps.Copy(totals, storage.Groups)
	}
	return totals
}

// fills returns the running fills of the storages.
func (s *site) fills() (fills []admin.FillStatus) {
	s.t.Helper()
	for _, storage := range s.storages() {
		fills = append(fills, storage.Fills...)
	}
	return fills
}
