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

func TestGetRejectsBadDigest(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		for _, d := range []digest.Digest{"", "sha256", "sha256:", "sha256:ab", "md5:d41d8cd98f00b204e9800998ecf8427e", "../../etc"} {
			s := e.source(random(90, 100))
			s.digest = d
			if _, _, err := e.get(s); err == nil || s.fetches() != 0 {
				t.Errorf("got %q after %d fetches", d, s.fetches())
			}
			if err := e.cache.PutBytes(t.Context(), d, s.content); err == nil {
				t.Errorf("put %q", d)
			}
			if _, err := e.bytes(d, 1000); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("bytes of %q: %v", d, err)
			}
			if _, ok := e.cache.Has(t.Context(), d); ok {
				t.Errorf("has %q", d)
			}
		}
	})
}

func TestCacheHas(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(91, 1234))
		if _, ok := e.cache.Has(t.Context(), s.digest); ok {
			t.Error("has what was never fetched")
		}
		e.whole(s)
		synctest.Wait()
		if size, ok := e.cache.Has(t.Context(), s.digest); !ok || size != 1234 {
			t.Errorf("has %v of %d bytes", ok, size)
		}
	})
}

// TestCacheHealsDamage has something happen to a stored file; the next request
// gets the right bytes, and the one after it gets them from the store.
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
						t.Errorf("origin %v instead of %v", origin, want)
					}
				}
			})
		})
	}
}

// TestCacheHealsEmptyFile needs no size to see that a file was cut.
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

func TestGetWhenStoreCannotOpen(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(94, 1000))
		e.store.onOpen = func(digest.Digest) (io.ReadSeekCloser, error) { return nil, syscall.EIO }
		e.whole(s)
		synctest.Wait()
		if e.whole(s); s.fetches() != 2 {
			t.Errorf("%d fetches", s.fetches())
		}
		for _, trouble := range e.troubled() {
			if !strings.HasPrefix(trouble, "open stored content: ") {
				t.Errorf("trouble: %s", trouble)
			}
		}
	})
}

func TestGetWhenStoreCannotSeek(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(95, 1000))
		e.store.onOpen = func(digest.Digest) (io.ReadSeekCloser, error) {
			return &faultFile{bytes.NewReader(s.content), nil, syscall.EIO}, nil
		}
		e.whole(s)
		if len(e.troubled()) == 0 {
			t.Error("no trouble")
		}
	})
}

// TestGetWhenStoreCannotRemove has damage stay in place; it is not served for that.
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
			t.Errorf("troubles: %s", got)
		}
	})
}

func TestCacheWithoutHooks(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		e.cache = blobcache.New(e.store, blobcache.Limits{Reserve: -1}, blobcache.Hooks{})
		s := e.source(random(97, 1000))
		e.store.onCommit = func() error { return syscall.ENOSPC }
		e.whole(s)
	})
}

func TestCacheFind(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(98, 1000))
		if _, err := e.bytes(s.digest, 1000); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("never stored: %v", err)
		}
		if err := e.cache.PutBytes(t.Context(), s.digest, s.content[1:]); !errors.Is(err, fill.ErrDigestMismatch) {
			t.Errorf("put: %v", err)
		}
		if err := e.cache.PutBytes(t.Context(), s.digest, s.content); err != nil || !e.stored(s) {
			t.Errorf("put: %v", err)
		}
		for range 2 {
			if got, err := e.bytes(s.digest, 1000); err != nil || !bytes.Equal(got, s.content) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
			// Another cache has it from the disk.
			e.cache = blobcache.New(e.store, blobcache.Limits{Reserve: -1}, blobcache.Hooks{})
			if _, err := e.bytes(s.digest, 999); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("longer than the limit: %v", err)
			}
		}
		if err := e.cache.PutBytes(t.Context(), s.digest, s.content); err != nil {
			t.Error(err)
		}
		if _, err := e.bytes(s.digest, 999); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("longer than the limit, in memory: %v", err)
		}
	})
}

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
			t.Errorf("find: %v", err)
		}
	})
}

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
					t.Errorf("damaged: %v", err)
				}
				if e.stored(s) || len(e.troubled()) == 0 {
					t.Error("damage stays")
				}
				e.whole(s)
				synctest.Wait()
				if got, err := e.bytes(s.digest, 1000); err != nil || !bytes.Equal(got, s.content) {
					t.Errorf("%d bytes, %v", len(got), err)
				}
			})
		})
	}
}
