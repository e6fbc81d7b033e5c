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

// random returns size pseudo-random bytes, which are the same for the same seed.
func random(seed uint64, size int) []byte {
	content := make([]byte, size)
	rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}).Read(content)
	return content
}

// ended holds the arguments of a call of Hooks.FillDone.
type ended struct {
	digest digest.Digest
	size   int64
	err    error
}

// env is a cache whose store is in a directory. It records the calls of the cache's hooks.
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

// abandoned holds the arguments of a call of Hooks.Abandoned.
type abandoned struct {
	written, size int64
	goesOn        bool
}

// newEnv returns an env whose store is in dir.
func newEnv(t testing.TB, dir string) *env {
	files, err := store.OpenFileStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	e := &env{t: t, dir: dir, files: files, store: &faultStore{FileStore: files}, ended: make(chan ended, 4096)}
	e.cache = blobcache.New(e.store, blobcache.Limits{Reserve: -1}, e.hooks())
	return e
}

// hooks returns hooks that record their calls in e.
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

// bubble runs a test in a synctest bubble and waits until all its goroutines have ended.
// The test fails if it leaves a temporary file, an open file or an open body.
func bubble(t *testing.T, test func(t *testing.T, e *env)) {
	t.Helper()
	dir := t.TempDir()
	var e *env
	synctest.Test(t, func(t *testing.T) {
		e = newEnv(t, dir)
		// The fake clock stops when the test function returns: let all timers expire first.
		defer time.Sleep(24 * time.Hour)
		test(t, e)
	})
	e.tidy(t)
	for name := range leaktest.OpenFiles() {
		if strings.HasPrefix(name, dir) {
			t.Errorf("the file %s is still open, want it closed", name)
		}
	}
}

// tidy reports an error for each temporary file that is left in the store, and for each
// source with bodies that are still open or were closed twice. All fills must have ended.
func (e *env) tidy(t testing.TB) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(e.dir, "tmp"))
	if err != nil {
		t.Error(err)
	}
	for _, entry := range entries {
		t.Errorf("the temporary file %s is left, want none", entry.Name())
	}
	for _, s := range e.sources {
		if s.open != 0 {
			t.Errorf("got %d bodies opened and not closed (negative: closed twice), want 0", s.open)
		}
	}
}

// path returns the name of the file in which the content with digest d is stored.
func (e *env) path(d digest.Digest) string {
	return filepath.Join(e.dir, "blobs", d.Algorithm().String(), d.Encoded()[:2], d.Encoded())
}

// trouble records a storage error.
func (e *env) trouble(op string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.troubles = append(e.troubles, fmt.Sprintf("%s: %v", op, err))
}

// troubled returns the storage errors recorded so far.
func (e *env) troubled() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.troubles
}

// resumes returns how often Hooks.Resumed was called.
func (e *env) resumes() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.resumed
}

// get asks for a source's content on behalf of scope a.
func (e *env) get(s *source) (*blobcache.Reader, fill.Origin, error) {
	return e.cache.Get(e.t.Context(), s.request("a"))
}

// mustGet is like get, but ends the test on an error. The reader is closed after the test.
func (e *env) mustGet(s *source) *blobcache.Reader {
	e.t.Helper()
	r, _, err := e.get(s)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { _ = r.Close() })
	return r
}

// whole reads a source's content through the cache, compares it and returns its origin.
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

// bytes returns the content that [blobcache.Cache.Find] finds.
func (e *env) bytes(d digest.Digest, limit int64) ([]byte, error) {
	small, large, err := e.cache.Find(e.t.Context(), d, limit)
	if large == nil {
		return small, err
	}
	defer large.Close()
	return io.ReadAll(large)
}

// comparison is a writer that compares what is written with the content. It keeps no copy,
// because large memory is slow under the race detector.
type comparison struct {
	content []byte
	n       int  // bytes written
	differs bool // from the content, so far
}

func (c *comparison) Write(p []byte) (int, error) {
	rest := c.content[min(c.n, len(c.content)):]
	c.differs = c.differs || !bytes.Equal(p, rest[:min(len(p), len(rest))])
	c.n += len(p)
	return len(p), nil
}

// equal reports whether exactly the content was written.
func (c *comparison) equal() bool { return !c.differs && c.n == len(c.content) }

// same reads r to its end and reports an error if the bytes read differ from want.
func (e *env) same(r io.Reader, want []byte) {
	e.t.Helper()
	got := &comparison{content: want}
	if _, err := io.Copy(got, struct{ io.Reader }{r}); err != nil || !got.equal() {
		e.t.Errorf("read %d bytes (equal to what is wanted: %t) and got the error %v, want %d equal bytes and no error", got.n, got.equal(), err, len(want))
	}
}

// lastHeldBack checks that r returns the last byte of s only after gate is closed, which lets
// the cache verify the digest. The caller has read all other bytes.
func (e *env) lastHeldBack(r io.Reader, s *source, gate chan struct{}) {
	e.t.Helper()
	last := make(chan []byte, 1)
	go func() {
		b := make([]byte, 1)
		if _, err := io.ReadFull(r, b); err != nil {
			e.t.Errorf("reading the last byte: got the error %v, want none", err)
		}
		last <- b
	}()
	synctest.Wait()
	if len(last) != 0 {
		e.t.Error("the reader got the last byte before the digest was verified")
	}
	close(gate)
	want := s.content[len(s.content)-1:]
	if got := <-last; !bytes.Equal(got, want) {
		e.t.Errorf("got the last byte %x, want %x", got, want)
	}
	e.same(r, nil)
}

// broken reads r until an error, which must be want and come before the last byte of s.
func (e *env) broken(r *blobcache.Reader, s *source, want error) {
	e.t.Helper()
	got, err := io.Copy(io.Discard, struct{ io.Reader }{r})
	if !errors.Is(err, want) || !errors.Is(r.Err(), want) || got >= int64(len(s.content)) {
		e.t.Errorf("read %d bytes, got the error %v, and %v from Err; want fewer than %d bytes and the error %v", got, err, r.Err(), len(s.content), want)
	}
}

// refused asks for content for which Get must return the error want.
func (e *env) refused(s *source, want error) {
	e.t.Helper()
	r, _, err := e.get(s)
	if err == nil {
		_ = r.Close()
	}
	if !errors.Is(err, want) {
		e.t.Errorf("get: got the error %v, want %v", err, want)
	}
}

// fails asks for content for which Get, or a read before the last byte, must return the
// error want.
func (e *env) fails(s *source, want error) {
	e.t.Helper()
	r, _, err := e.get(s)
	if err == nil {
		defer r.Close()
		e.broken(r, s, want)
	} else if !errors.Is(err, want) {
		e.t.Errorf("get: got the error %v, want %v", err, want)
	}
}

// stored reports whether the store has the content of s, and compares it.
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
