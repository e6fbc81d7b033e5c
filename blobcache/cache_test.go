package blobcache_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// TestGetRejectsBadDigest checks that the cache rejects malformed and unsupported digests
// without a request to the source.
func TestGetRejectsBadDigest(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		for _, d := range []digest.Digest{"", "sha256", "sha256:", "sha256:ab", "md5:d41d8cd98f00b204e9800998ecf8427e", "../../etc"} {
			s := e.source(random(90, 100))
			s.digest = d
			if _, _, err := e.get(s); err == nil || s.fetches() != 0 {
				t.Errorf("Get of %q: got the error %v after %d fetches, want an error after 0", d, err, s.fetches())
			}
			if err := e.cache.PutBytes(t.Context(), d, s.content); err == nil {
				t.Errorf("PutBytes of %q: got no error, want one", d)
			}
			if _, err := e.bytes(d, 1000); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("bytes of %q: got the error %v, want fs.ErrNotExist", d, err)
			}
			if _, ok := e.cache.Has(t.Context(), d); ok {
				t.Errorf("Has of %q: got true, want false", d)
			}
		}
	})
}

// TestCacheHas checks that Has reports content and its size only once it is stored.
func TestCacheHas(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(91, 1234))
		if _, ok := e.cache.Has(t.Context(), s.digest); ok {
			t.Error("Has of content that was never fetched: got true, want false")
		}
		e.whole(s)
		synctest.Wait()
		if size, ok := e.cache.Has(t.Context(), s.digest); !ok || size != 1234 {
			t.Errorf("Has: got %d bytes, %v; want 1234 bytes, true", size, ok)
		}
	})
}

// TestCacheHealsDamage checks that the request after a stored file was damaged fetches the
// right bytes, and that the request after that one gets them from the store.
func TestCacheHealsDamage(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"cut":       func(path string) error { return os.Truncate(path, 1000) },
		"cut short": func(path string) error { return os.Truncate(path, 0) },
		"grown":     func(path string) error { return os.Truncate(path, 500_000) },
		"gone":      os.Remove,
		"directory": func(path string) error { return errors.Join(os.Remove(path), os.MkdirAll(path+"/inside", 0o700)) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, e *env) {
				s := e.source(random(92, 200_000))
				e.whole(s)
				synctest.Wait()
				if err := damage(e.path(s.digest)); err != nil {
					t.Fatal(err)
				}
				req := s.request("a")
				req.Size = 200_000
				for _, want := range []fill.Origin{fill.Started, fill.Hit} {
					r, origin, err := e.cache.Get(t.Context(), req)
					if err != nil {
						t.Fatal(err)
					}
					e.same(r, s.content)
					_ = r.Close()
					synctest.Wait()
					if origin != want {
						t.Errorf("got origin %v, want %v", origin, want)
					}
				}
			})
		})
	}
}

// TestCacheHealsEmptyFile checks that the cache fetches the content again when the stored file
// is empty, even if the request gives no size.
func TestCacheHealsEmptyFile(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(93, 1000))
		e.whole(s)
		synctest.Wait()
		if err := os.Truncate(e.path(s.digest), 0); err != nil {
			t.Fatal(err)
		}
		e.whole(s)
	})
}

// TestGetWhenStoreCannotOpen checks that Get fetches the content again and reports a storage
// error when the stored file cannot be opened.
func TestGetWhenStoreCannotOpen(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(94, 1000))
		e.store.onOpen = func(digest.Digest) (io.ReadSeekCloser, error) { return nil, syscall.EIO }
		e.whole(s)
		synctest.Wait()
		if e.whole(s); s.fetches() != 2 {
			t.Errorf("got %d fetches, want 2", s.fetches())
		}
		for _, trouble := range e.troubled() {
			if !strings.HasPrefix(trouble, "open stored content: ") {
				t.Errorf("got the storage error %q, want one on opening stored content", trouble)
			}
		}
	})
}

// TestGetWhenStoreCannotSeek checks that Get fetches the content and reports a storage
// error when the stored file cannot seek.
func TestGetWhenStoreCannotSeek(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(95, 1000))
		e.store.onOpen = func(digest.Digest) (io.ReadSeekCloser, error) {
			return &faultFile{bytes.NewReader(s.content), nil, syscall.EIO}, nil
		}
		e.whole(s)
		if len(e.troubled()) == 0 {
			t.Error("got no storage error, want at least one")
		}
	})
}

// TestGetWhenStoreCannotRemove checks that Get does not serve a damaged file that the store
// cannot remove, and reports a storage error.
func TestGetWhenStoreCannotRemove(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(96, 1000))
		e.whole(s)
		synctest.Wait()
		if err := os.Truncate(e.path(s.digest), 0); err != nil {
			t.Fatal(err)
		}
		e.store.onRemove = func() error { return syscall.EROFS }
		e.whole(s)
		if got := strings.Join(e.troubled(), "\n"); !strings.Contains(got, "remove content: ") {
			t.Errorf("got the storage errors %q, want one on removing content", got)
		}
	})
}

// TestCacheWithoutHooks checks that a cache without hooks serves content that it cannot store.
func TestCacheWithoutHooks(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		e.cache = blobcache.New(e.store, blobcache.Limits{Reserve: -1}, blobcache.Hooks{})
		s := e.source(random(97, 1000))
		e.store.onCommit = func() error { return syscall.ENOSPC }
		e.whole(s)
	})
}

// TestCacheFind checks that stored content is found in memory and on disk, up to the given
// size, and that PutBytes rejects bytes that do not match the digest.
func TestCacheFind(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(98, 1000))
		if _, err := e.bytes(s.digest, 1000); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("content that was never stored: got the error %v, want fs.ErrNotExist", err)
		}
		if err := e.cache.PutBytes(t.Context(), s.digest, s.content[1:]); !errors.Is(err, fill.ErrDigestMismatch) {
			t.Errorf("PutBytes of other bytes: got the error %v, want fill.ErrDigestMismatch", err)
		}
		if err := e.cache.PutBytes(t.Context(), s.digest, s.content); err != nil || !e.stored(s) {
			t.Errorf("PutBytes: got the error %v and stored: %v, want no error and stored: true", err, e.stored(s))
		}
		for range 2 {
			if got, err := e.bytes(s.digest, 1000); err != nil || !bytes.Equal(got, s.content) {
				t.Errorf("got %d bytes and the error %v, want the %d bytes of the content and no error", len(got), err, len(s.content))
			}
			// A new cache reads the content from disk.
			e.cache = blobcache.New(e.store, blobcache.Limits{Reserve: -1}, blobcache.Hooks{})
			if _, err := e.bytes(s.digest, 999); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("content on disk longer than the limit: got the error %v, want fs.ErrNotExist", err)
			}
		}
		if err := e.cache.PutBytes(t.Context(), s.digest, s.content); err != nil {
			t.Error(err)
		}
		if _, err := e.bytes(s.digest, 999); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("content in memory longer than the limit: got the error %v, want fs.ErrNotExist", err)
		}
	})
}

// TestCacheFindKeepsNothingLarge checks that the cache does not keep large content in memory.
func TestCacheFindKeepsNothingLarge(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(99, 100_000))
		if err := e.cache.PutBytes(t.Context(), s.digest, s.content); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(e.path(s.digest)); err != nil {
			t.Fatal(err)
		}
		if _, err := e.bytes(s.digest, 1<<20); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("large content whose file was removed: got the error %v, want fs.ErrNotExist", err)
		}
	})
}

// TestCacheFindHealsDamage checks that damaged content is not found, is removed and reported,
// and is found again after the next download.
func TestCacheFindHealsDamage(t *testing.T) {
	for name, damage := range map[string]func(e *env, s *source) error{
		"flipped": func(e *env, s *source) error {
			return os.WriteFile(e.path(s.digest), flipped(s.content, 500), 0o600)
		},
		"cut": func(e *env, s *source) error { return os.Truncate(e.path(s.digest), 10) },
		"unreadable": func(e *env, s *source) error {
			e.store.onOpen = func(digest.Digest) (io.ReadSeekCloser, error) {
				e.store.onOpen = nil
				return &faultFile{bytes.NewReader(s.content), syscall.EIO, nil}, nil
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, e *env) {
				s := e.source(random(100, 1000))
				e.whole(s)
				synctest.Wait()
				if err := damage(e, s); err != nil {
					t.Fatal(err)
				}
				if _, err := e.bytes(s.digest, 1000); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("damaged content: got the error %v, want fs.ErrNotExist", err)
				}
				if e.stored(s) || len(e.troubled()) == 0 {
					t.Errorf("damaged content: stored: %v, with the storage errors %q; want it removed and reported", e.stored(s), e.troubled())
				}
				e.whole(s)
				synctest.Wait()
				if got, err := e.bytes(s.digest, 1000); err != nil || !bytes.Equal(got, s.content) {
					t.Errorf("got %d bytes and the error %v, want the %d bytes of the content and no error", len(got), err, len(s.content))
				}
			})
		})
	}
}
