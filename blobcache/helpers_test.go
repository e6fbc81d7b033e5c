package blobcache_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/internal/leaktest"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// random is some bytes that are always the same for a seed.
func random(seed uint64, size int) []byte {
	content := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}).Read(content)
	return content
}

// ended is what Hooks.FillDone was told.
type ended struct {
	digest digest.Digest
	size   int64
	err    error
}

// env is a cache on a directory, and what its hooks were told.
type env struct {
	t     testing.TB
	dir   string
	files *store.FileStore
	store *faultStore
	cache *blobcache.Cache
	ended chan ended

	mu        sync.Mutex
	troubles  []string
	sources   []*source
	resumed   int
	joined    int
	abandoned []abandoned
}

// abandoned is what Hooks.Abandoned was told.
type abandoned struct {
	written, size int64
	goesOn        bool
}

func newEnv(t testing.TB, dir string) *env {
	files, err := store.OpenFileStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	e := &env{t: t, dir: dir, files: files, store: &faultStore{FileStore: files}, ended: make(chan ended, 4096)}
	e.cache = blobcache.New(e.store, blobcache.Limits{Reserve: -1}, e.hooks())
	return e
}

func (e *env) hooks() blobcache.Hooks {
	return blobcache.Hooks{
		FillDone:     func(d digest.Digest, size int64, _ time.Duration, err error) { e.ended <- ended{d, size, err} },
		Healed:       func(d digest.Digest, why error) { e.trouble("heal "+d.String(), why) },
		StorageError: e.trouble,
		Joined: func(digest.Digest) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.joined++
		},
		Resumed: func(digest.Digest, int64, error) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.resumed++
		},
		Abandoned: func(_ digest.Digest, written, size int64, goesOn bool) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.abandoned = append(e.abandoned, abandoned{written, size, goesOn})
		},
	}
}

// bubble runs a test on a fake clock; it ends when all goroutines have ended,
// and fails if a temporary file or an open body is left.
func bubble(t *testing.T, test func(t *testing.T, e *env)) {
	t.Helper()
	dir := t.TempDir()
	var e *env
	synctest.Test(t, func(t *testing.T) {
		e = newEnv(t, dir)
		defer time.Sleep(24 * time.Hour) // the clock stops with the test
		test(t, e)
	})
	e.tidy(t)
	for name := range leaktest.OpenFiles() {
		if strings.HasPrefix(name, dir) {
			t.Errorf("still open: %s", name)
		}
	}
}

// tidy fails if something is left behind although all fills have ended.
func (e *env) tidy(t testing.TB) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(e.dir, "tmp"))
	if err != nil {
		t.Error(err)
	}
	for _, entry := range entries {
		t.Errorf("left behind: %s", entry.Name())
	}
	for _, s := range e.sources {
		if s.open != 0 {
			t.Errorf("%d bodies were not closed once", s.open)
		}
	}
}

// path is where a digest is stored.
func (e *env) path(d digest.Digest) string {
	return filepath.Join(e.dir, "blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded())
}

func (e *env) trouble(op string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.troubles = append(e.troubles, fmt.Sprintf("%s: %v", op, err))
}

func (e *env) troubled() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.troubles
}

func (e *env) resumes() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.resumed
}

// get asks for a source's content on behalf of scope a.
func (e *env) get(s *source) (*blobcache.Reader, fill.Origin, error) {
	return e.cache.Get(e.t.Context(), s.request("a"))
}

func (e *env) mustGet(s *source) *blobcache.Reader {
	e.t.Helper()
	r, _, err := e.get(s)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { _ = r.Close() })
	return r
}

// whole reads a source's content through the cache and compares it.
func (e *env) whole(s *source) fill.Origin {
	e.t.Helper()
	r, origin, err := e.get(s)
	if err != nil {
		e.t.Fatal(err)
	}
	defer r.Close()
	e.same(r, s.content)
	return origin
}

// bytes reads what [blobcache.Cache.Find] has found.
func (e *env) bytes(d digest.Digest, limit int64) ([]byte, error) {
	small, large, err := e.cache.Find(e.t.Context(), d, limit)
	if large == nil {
		return small, err
	}
	defer large.Close()
	return io.ReadAll(large)
}

func (e *env) same(r io.Reader, want []byte) {
	e.t.Helper()
	if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
		e.t.Errorf("read %d of %d bytes, %v", len(got), len(want), err)
	}
}

// broken reads to the end, which must be a failure before the last byte.
func (e *env) broken(r *blobcache.Reader, s *source, want error) {
	e.t.Helper()
	got, err := io.ReadAll(r)
	if !errors.Is(err, want) || !errors.Is(r.Err(), want) || len(got) >= len(s.content) {
		e.t.Errorf("read %d of %d bytes, %v, %v; instead of %v", len(got), len(s.content), err, r.Err(), want)
	}
}

// refused asks for content that is not there.
func (e *env) refused(s *source, want error) {
	e.t.Helper()
	r, _, err := e.get(s)
	if err == nil {
		_ = r.Close()
	}
	if !errors.Is(err, want) {
		e.t.Errorf("get: %v instead of %v", err, want)
	}
}

// fails asks for content that breaks, at the latest before its last byte.
func (e *env) fails(s *source, want error) {
	e.t.Helper()
	r, _, err := e.get(s)
	if err == nil {
		defer r.Close()
		e.broken(r, s, want)
	} else if !errors.Is(err, want) {
		e.t.Errorf("get: %v instead of %v", err, want)
	}
}

func (e *env) stored(s *source) bool {
	file, err := e.files.Open(e.t.Context(), s.digest)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			e.t.Error(err)
		}
		return false
	}
	defer file.Close()
	e.same(file, s.content)
	return true
}
