//go:build linux || darwin || freebsd

package blobcache_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// damages holds functions that damage the file of stored content, by the name of the damage.
var damages = map[string]func(name string, content []byte) error{
	"other bytes of the same length": func(name string, content []byte) error {
		return os.WriteFile(name, flipped(content, 500), 0o600)
	},
	"one byte in place": func(name string, content []byte) error {
		file, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		_, err = file.WriteAt([]byte{content[500] ^ 1}, 500)
		return errors.Join(err, file.Close())
	},
	"another file with its times": func(name string, content []byte) error {
		other := name + ".other"
		then := time.Now().Add(-time.Hour)
		return errors.Join(os.WriteFile(other, flipped(content, 0), 0o600), os.Chtimes(other, then, then), os.Rename(other, name))
	},
	"cut": func(name string, content []byte) error { return os.Truncate(name, int64(len(content)-1)) },
	"symbolic link to the same bytes": func(name string, content []byte) error {
		other := name + ".other"
		return errors.Join(os.Rename(name, other), os.Symlink(other, name))
	},
	"symbolic link to nothing": func(name string, _ []byte) error {
		return errors.Join(os.Remove(name), os.Symlink("/nowhere/at/all", name))
	},
	"symbolic link in place of its folder": func(name string, _ []byte) error {
		folder := filepath.Dir(name)
		return errors.Join(os.Rename(folder, folder+"-moved"), os.Symlink(folder+"-moved", folder))
	},
	"symbolic link in place of all content": func(name string, _ []byte) error {
		folder := filepath.Dir(filepath.Dir(filepath.Dir(name)))
		return errors.Join(os.Rename(folder, folder+"-moved"), os.Symlink(folder+"-moved", folder))
	},
	"named pipe": func(name string, _ []byte) error {
		return errors.Join(os.Remove(name), syscall.Mkfifo(name, 0o600))
	},
	"folder": func(name string, _ []byte) error {
		return errors.Join(os.Remove(name), os.MkdirAll(filepath.Join(name, "deep"), 0o700))
	},
}

// TestDamagedFileIsRefetched checks that a request that finds a damaged file fetches the
// content again, without a scrub, and that concurrent requests share one fetch.
func TestDamagedFileIsRefetched(t *testing.T) {
	for name, damage := range damages {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, e *env) {
				e.cache = blobcache.New(e.store, blobcache.Limits{Reserve: -1}, e.hooks())
				s := e.source(random(95, 100_000))
				e.whole(s)
				synctest.Wait() // until it is stored
				if err := damage(e.path(s.digest), s.content); err != nil {
					t.Fatal(err)
				}
				var all sync.WaitGroup
				for range 4 {
					all.Go(func() { e.whole(s) })
				}
				all.Wait()
				synctest.Wait()
				if origin := e.whole(s); origin != fill.Hit || s.fetches() != 2 {
					t.Errorf("afterwards: origin %v after %d fetches, want %v after 2", origin, s.fetches(), fill.Hit)
				}
				if got := e.troubled(); len(got) != 1 || !strings.HasPrefix(got[0], "heal "+s.digest.String()) {
					t.Errorf("got the storage errors %q, want one about the damage", got)
				}
				if info, err := os.Lstat(e.path(s.digest)); err != nil || !info.Mode().IsRegular() {
					t.Errorf("the file after the new fetch: got %v and the error %v, want a regular file and no error", info, err)
				}
			})
		})
	}
}

// TestLinkedFolderIsLeftAlone checks that the store does not change or visit files that a
// symbolic link in the cache leads to, since they do not belong to the cache.
func TestLinkedFolderIsLeftAlone(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(96, 1000))
		e.whole(s)
		synctest.Wait() // until it is stored
		elsewhere := t.TempDir()
		name := filepath.Join(elsewhere, s.digest.Encoded())
		folder := filepath.Dir(e.path(s.digest))
		link := func() {
			err := errors.Join(os.RemoveAll(folder), os.WriteFile(name, s.content, 0o600), os.Symlink(elsewhere, folder))
			if err != nil {
				t.Fatal(err)
			}
		}
		then := time.Now().Add(-time.Hour)
		for what, deed := range map[string]func() error{
			"remove": func() error { return e.files.Remove(t.Context(), s.digest) },
			"touch":  func() error { return e.files.Touch(t.Context(), s.digest, then) },
			"put":    func() error { return e.cache.PutBytes(t.Context(), s.digest, s.content) },
			"walk": func() error {
				return e.files.Walk(t.Context(), func(got store.Entry) error {
					t.Errorf("Walk visited %+v, want no visit", got)
					return nil
				})
			},
		} {
			link()
			before, err := os.Stat(name)
			if err == nil {
				err = deed()
			}
			if err != nil {
				t.Errorf("%s: got the error %v, want none", what, err)
			}
			after, err := os.Stat(name)
			if err != nil || !os.SameFile(before, after) || !after.ModTime().Equal(before.ModTime()) {
				t.Errorf("%s: the file that the link leads to was changed or removed (error %v), want it unchanged", what, err)
			}
		}
	})
}

// TestRootMayBeLink checks that the root of a store may be a symbolic link, and that damage is
// found below it as usual.
func TestRootMayBeLink(t *testing.T) {
	root := filepath.Join(t.TempDir(), "cache")
	if err := os.Symlink(t.TempDir(), root); err != nil {
		t.Fatal(err)
	}
	e := newEnv(t, root)
	s := e.source(random(97, 1000))
	if err := e.cache.PutBytes(t.Context(), s.digest, s.content); err != nil || !e.stored(s) {
		t.Errorf("put: got the error %v, want none and the content stored", err)
	}
	if err := os.WriteFile(e.path(s.digest), flipped(s.content, 500), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := e.files.Open(t.Context(), s.digest); !errors.Is(err, store.ErrDamaged) {
		t.Errorf("open the changed file: got the error %v, want %v", err, store.ErrDamaged)
	}
	if got := e.troubled(); len(got) != 0 {
		t.Errorf("got the storage errors %q, want none", got)
	}
}
