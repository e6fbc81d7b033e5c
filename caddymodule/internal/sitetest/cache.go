package sitetest

import (
	"encoding/json"
	"errors"
	"io/fs"
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

// Stored returns the names of all files below the cache directory.
func (s *Site) Stored() []string {
	s.T.Helper()
	var names []string
	err := filepath.WalkDir(s.Cache, func(name string, entry os.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && name != s.Cache {
			return nil // removed meanwhile
		}
		if err == nil && !entry.IsDir() {
			name, err = filepath.Rel(s.Cache, name)
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		s.T.Fatal(err)
	}
	return names
}

// AwaitStored waits until blobs are on disk and their fills have ended. Clients
// get a blob before that, and a request may still join the fill.
func (s *Site) AwaitStored(digests ...string) {
	s.T.Helper()
	for _, digest := range digests {
		algorithm, hex, _ := strings.Cut(digest, ":")
		name := filepath.Join(s.Cache, "blobs", algorithm, hex[:2], hex)
		Eventually(s.T, digest+" is stored", func() bool {
			_, err := os.Stat(name)
			return err == nil && !slices.ContainsFunc(s.Fills(), func(f admin.FillStatus) bool { return f.Digest == digest })
		})
	}
}

// BlobFile returns the name of the file with the blob.
func (s *Site) BlobFile(d digest.Digest) string {
	return filepath.Join(s.Cache, "blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded())
}

// IsStored reports whether the blob is on disk.
func (s *Site) IsStored(d digest.Digest) bool {
	_, err := os.Stat(s.BlobFile(d))
	return err == nil
}

// Storages returns the state of the storages of all sites, as the admin API shows it, even
// if the site has no admin endpoint.
func (s *Site) Storages() []admin.CacheStatus {
	s.T.Helper()
	module, err := caddy.GetModule("admin.api.dependency_proxy")
	if err != nil {
		s.T.Fatal(err)
	}
	for _, route := range module.New().(caddy.AdminRouter).Routes() {
		if route.Pattern != AdminCacheStatus {
			continue
		}
		var list admin.CacheList
		w := httptest.NewRecorder()
		err := route.Handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, AdminCacheStatus, nil))
		if err == nil {
			err = json.Unmarshal(w.Body.Bytes(), &list)
		}
		if err != nil {
			s.T.Fatal(err)
		}
		return list.Caches
	}
	s.T.Fatal("the admin API does not show the storages")
	return nil
}

// GroupTotals returns what each group has stored, as last measured.
func (s *Site) GroupTotals() map[string]admin.GroupUsage {
	s.T.Helper()
	totals := make(map[string]admin.GroupUsage)
	for _, storage := range s.Storages() {
		maps.Copy(totals, storage.Groups)
	}
	return totals
}

// Fills returns the running fills of the storages.
func (s *Site) Fills() (fills []admin.FillStatus) {
	s.T.Helper()
	for _, storage := range s.Storages() {
		fills = append(fills, storage.Fills...)
	}
	return fills
}
