package blobcache_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// noSpool runs a test with a store that cannot create spools, so that the cache passes
// content on without storing it.
func noSpool(t *testing.T, test func(t *testing.T, e *env)) {
	t.Helper()
	bubble(t, func(t *testing.T, e *env) {
		e.store.refuseSpools()
		test(t, e)
	})
}

// TestBypass checks that content of any size is delivered without a spool, is not stored,
// and that the failure is reported once.
func TestBypass(t *testing.T) {
	for _, size := range []int{0, 1, 2, 1000, 400_000} {
		noSpool(t, func(t *testing.T, e *env) {
			s := e.source(random(70, size))
			if origin := e.whole(s); origin != fill.Started {
				t.Errorf("size %d: got the origin %v, want %v", size, origin, fill.Started)
			}
			synctest.Wait()
			if e.stored(s) || len(e.troubled()) != 1 {
				t.Errorf("size %d: stored is %v and the troubles are %q, want false and one trouble", size, e.stored(s), e.troubled())
			}
		})
	}
}

// TestBypassForManyReaders checks that several clients at once read different parts of
// content that is not stored.
func TestBypassForManyReaders(t *testing.T) {
	noSpool(t, func(t *testing.T, e *env) {
		s := e.source(random(71, 400_000))
		var all sync.WaitGroup
		for i := range int64(20) {
			all.Go(func() {
				r := e.mustGet(s)
				if _, err := r.Seek(i*20_000, io.SeekStart); err != nil {
					t.Error(err)
				}
				e.same(r, s.content[i*20_000:])
			})
		}
		all.Wait()
	})
}

// TestBypassSeeks checks that a reader of content that is not stored can seek, and asks
// the source again only to go back.
func TestBypassSeeks(t *testing.T) {
	noSpool(t, func(t *testing.T, e *env) {
		s := e.source(random(72, 400_000))
		r := e.mustGet(s)
		before := s.fetches()
		piece := make([]byte, 1000)
		for _, at := range []int64{0, 1000, 300_000, 399_000, 5, 5, 200_000, 100_000} {
			if off, err := r.Seek(at, io.SeekStart); err != nil || off != at {
				t.Fatalf("Seek: got %d and the error %v, want %d and none", off, err, at)
			}
			if _, err := io.ReadFull(r, piece); err != nil || string(piece) != string(s.content[at:at+1000]) {
				t.Fatalf("reading at %d: got wrong bytes or the error %v, want the content and none", at, err)
			}
		}
		if again := s.fetches() - before; again != 3 {
			t.Errorf("got %d further fetches, want 3: one for each seek backward", again)
		}
		if _, err := r.Seek(10, io.SeekEnd); err != nil {
			t.Fatal(err)
		}
		if n, err := r.Read(piece); n != 0 || err != io.EOF {
			t.Errorf("reading beyond the end: got %d bytes and the error %v, want 0 and %v", n, err, io.EOF)
		}
		s.answer = func(context.Context, int, int64) (*fill.Body, error) { return nil, errSource }
		if _, err := r.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := r.Read(piece); !errors.Is(err, errSource) {
				t.Errorf("reading while the source fails: got the error %v, want %v", err, errSource)
			}
		}
	})
}

// TestBypassCorrupt checks that a reader gets an error, and not all bytes, when the source
// sends wrong content.
func TestBypassCorrupt(t *testing.T) {
	for name, lie := range lies {
		t.Run(name, func(t *testing.T) {
			noSpool(t, func(t *testing.T, e *env) {
				s := e.source(random(73, 400_000))
				s.answer = func(context.Context, int, int64) (*fill.Body, error) { return lie(s), nil }
				r := e.mustGet(s)
				// An HTTP server that answers range requests stops reading at the size.
				got, err := io.ReadAll(io.LimitReader(r, r.Size()))
				if err == nil || int64(len(got)) >= r.Size() {
					t.Errorf("read %d of %d bytes and got the error %v, want fewer bytes and an error", len(got), r.Size(), err)
				}
			})
		})
	}
}

// TestBypassMisannounced checks that a reader gets an error when the source announces more
// bytes than it sends, even if the bytes match the digest.
func TestBypassMisannounced(t *testing.T) {
	noSpool(t, func(t *testing.T, e *env) {
		s := e.source(random(77, 1000))
		s.answer = func(_ context.Context, _ int, offset int64) (*fill.Body, error) {
			body := s.body(offset, s.from(offset))
			body.Size = 1001
			return body, nil
		}
		e.broken(e.mustGet(s), s, io.ErrUnexpectedEOF)
	})
}

// TestBypassAfterTheEnd checks that bytes that a body returns after io.EOF are ignored.
func TestBypassAfterTheEnd(t *testing.T) {
	noSpool(t, func(t *testing.T, e *env) {
		s := e.source(random(78, 1000))
		s.answer = func(_ context.Context, _ int, offset int64) (*fill.Body, error) {
			once := s.from(offset)
			return s.body(offset, readFunc(func(p []byte) (int, error) {
				n, err := once.Read(p)
				if err == io.EOF {
					once = bytes.NewReader([]byte("more"))
				}
				return n, err
			})), nil
		}
		e.whole(s)
	})
}

// TestBypassSlowClient checks that a client may pause for longer than the time limit of a
// source.
func TestBypassSlowClient(t *testing.T) {
	noSpool(t, func(t *testing.T, e *env) {
		s := e.source(random(79, 500_000))
		r := e.mustGet(s)
		for from := 0; from < len(s.content); from += 100_000 {
			time.Sleep(10 * time.Minute)
			e.same(io.LimitReader(r, 100_000), s.content[from:from+100_000])
		}
	})
}

// TestBypassEmptyAnswer checks that an empty body for the digest of other content is refused.
func TestBypassEmptyAnswer(t *testing.T) {
	noSpool(t, func(t *testing.T, e *env) {
		s := e.source(nil)
		s.digest = digest.FromString("not empty")
		e.refused(s, fill.ErrDigestMismatch)
	})
}

// TestBypassUnknownSize checks that content of unknown size is delivered, and that seeking
// from its end fails.
func TestBypassUnknownSize(t *testing.T) {
	noSpool(t, func(t *testing.T, e *env) {
		s := e.source(random(74, 300_000))
		s.withoutSize()
		r := e.mustGet(s)
		if r.Size() != -1 {
			t.Errorf("got the size %d, want -1", r.Size())
		}
		if _, err := r.Seek(0, io.SeekEnd); err == nil {
			t.Error("Seek from an unknown end: got no error, want one")
		}
		e.same(r, s.content)
	})
}

// TestBypassSourceErrors checks that a client gets the error of a source that refuses or
// breaks off.
func TestBypassSourceErrors(t *testing.T) {
	noSpool(t, func(t *testing.T, e *env) {
		s := e.source(random(75, 300_000))
		s.answer = func(context.Context, int, int64) (*fill.Body, error) { return nil, errSource }
		e.refused(s, errSource)
		s.answer = func(_ context.Context, _ int, offset int64) (*fill.Body, error) {
			return s.body(offset, cut(s.from(offset), max(0, 1000-offset))), nil
		}
		r := e.mustGet(s)
		if _, err := r.Seek(5000, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		e.broken(r, s, errSource)
	})
}

// TestBypassDelivers checks that a claim is told of the delivery of content that is not
// stored once the digest is verified, and not before.
func TestBypassDelivers(t *testing.T) {
	noSpool(t, func(t *testing.T, e *env) {
		s, c := e.source(random(76, 1000)), &claim{}
		r, _, err := e.cache.Get(t.Context(), c.of(s.request("a")))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if got := c.sizes(); len(got) != 0 {
			t.Errorf("got the deliveries %d before a byte was read, want none", got)
		}
		e.same(r, s.content)
		if got := c.sizes(); len(got) != 1 || got[0] != 1000 {
			t.Errorf("got the deliveries %d, want [1000]", got)
		}
	})
}

// TestBypassReadOn checks that a client that reads on after a digest mismatch gets the
// same error, even where hashing the last byte twice would give the right digest.
func TestBypassReadOn(t *testing.T) {
	noSpool(t, func(t *testing.T, e *env) {
		s := e.source([]byte("helll"))
		s.answer = func(context.Context, int, int64) (*fill.Body, error) {
			body := s.body(0, bytes.NewReader(s.content[:4]))
			body.Size = -1
			return body, nil
		}
		r := e.mustGet(s)
		for range 2 {
			if got, err := io.ReadAll(r); !errors.Is(err, fill.ErrDigestMismatch) {
				t.Errorf("read %q and got the error %v, want %v", got, err, fill.ErrDigestMismatch)
			}
		}
		// After a seek the reader asks the source again.
		s.answer = nil
		if _, err := r.Seek(1, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		e.same(r, s.content[1:])
	})
}

// TestCacheReach checks that a storage that can take no content is reported, that a
// full one is not, and that the check leaves nothing behind.
func TestCacheReach(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		for _, row := range []struct {
			spool error
			down  bool
		}{{nil, false}, {syscall.EROFS, true}, {syscall.ENOSPC, false}, {nil, false}} {
			e.store.onSpool = func(*os.File) error { return row.spool }
			if err := e.cache.Reach(t.Context()); (err != nil) != row.down || row.down && !errors.Is(err, row.spool) {
				t.Errorf("with %v: got the error %v, want down: %t", row.spool, err, row.down)
			}
		}
		if left, err := os.ReadDir(filepath.Join(e.dir, "tmp")); err != nil || len(left) > 0 {
			t.Errorf("got the temporary files %v, error %v; want none", left, err)
		}
	})
}
