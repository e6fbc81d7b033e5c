package blobcache_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// noSpool runs a test on a store that cannot create spools.
func noSpool(t *testing.T, test func(t *testing.T, e *env)) {
	t.Helper()
	bubble(t, func(t *testing.T, e *env) {
		e.store.onSpool = func(*os.File) error { return errors.New("no space left on device") }
		test(t, e)
	})
}

func TestBypass(t *testing.T) {
	for _, size := range []int{0, 1, 2, 1000, 400_000} {
		noSpool(t, func(t *testing.T, e *env) {
			s := e.source(random(70, size))
			if origin := e.whole(s); origin != fill.Started {
				t.Errorf("origin %v", origin)
			}
			synctest.Wait()
			if e.stored(s) || len(e.troubled()) != 1 {
				t.Errorf("stored, or troubles: %q", e.troubled())
			}
		})
	}
}

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

func TestBypassSeeks(t *testing.T) {
	noSpool(t, func(t *testing.T, e *env) {
		s := e.source(random(72, 400_000))
		r := e.mustGet(s)
		before := s.fetches()
		piece := make([]byte, 1000)
		for _, at := range []int64{0, 1000, 300_000, 399_000, 5, 5, 200_000, 100_000} {
			if off, err := r.Seek(at, io.SeekStart); err != nil || off != at {
				t.Fatalf("seek: %d, %v", off, err)
			}
			if _, err := io.ReadFull(r, piece); err != nil || string(piece) != string(s.content[at:at+1000]) {
				t.Fatalf("at %d: %v", at, err)
			}
		}
		if again := s.fetches() - before; again != 3 {
			t.Errorf("asked %d times again, once for each way back", again)
		}
		if _, err := r.Seek(10, io.SeekEnd); err != nil {
			t.Fatal(err)
		}
		if n, err := r.Read(piece); n != 0 || err != io.EOF {
			t.Errorf("beyond the end: %d bytes, %v", n, err)
		}
		s.answer = func(context.Context, int, int64) (*fill.Body, error) { return nil, errSource }
		if _, err := r.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if _, err := r.Read(piece); !errors.Is(err, errSource) {
				t.Errorf("the source is gone: %v", err)
			}
		}
	})
}

func TestBypassCorrupt(t *testing.T) {
	for name, lie := range lies {
		t.Run(name, func(t *testing.T) {
			noSpool(t, func(t *testing.T, e *env) {
				s := e.source(random(73, 400_000))
				s.answer = func(context.Context, int, int64) (*fill.Body, error) { return lie(s), nil }
				r := e.mustGet(s)
				// Also by its size, as a server of ranges reads it.
				got, err := io.ReadAll(io.LimitReader(r, r.Size()))
				if err == nil || int64(len(got)) >= r.Size() {
					t.Errorf("read %d of %d bytes, %v", len(got), r.Size(), err)
				}
			})
		})
	}
}

// TestBypassMisannounced has the right bytes, but not as many as announced.
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

// TestBypassAfterTheEnd has a source that goes on after its end.
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

// TestBypassSlowClient takes longer than a source may.
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

func TestBypassEmptyAnswer(t *testing.T) {
	noSpool(t, func(t *testing.T, e *env) {
		s := e.source(nil)
		s.digest = digest.FromString("not empty")
		e.refused(s, fill.ErrDigestMismatch)
	})
}

func TestBypassUnknownSize(t *testing.T) {
	noSpool(t, func(t *testing.T, e *env) {
		s := e.source(random(74, 300_000))
		s.answer = func(_ context.Context, _ int, offset int64) (*fill.Body, error) {
			body := s.body(offset, s.from(offset))
			body.Size = -1
			return body, nil
		}
		r := e.mustGet(s)
		if r.Size() != -1 {
			t.Errorf("size %d", r.Size())
		}
		if _, err := r.Seek(0, io.SeekEnd); err == nil {
			t.Error("sought from an unknown end")
		}
		e.same(r, s.content)
	})
}

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

// TestBypassDelivers: without a disk too, a claim hears of the delivery when the
// digest is known, and not before.
func TestBypassDelivers(t *testing.T) {
	noSpool(t, func(t *testing.T, e *env) {
		s, c := e.source(random(76, 1000)), &claim{}
		r, _, err := e.cache.Get(t.Context(), c.of(s.request("a")))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if got := c.sizes(); len(got) != 0 {
			t.Errorf("delivered %d before a byte was read", got)
		}
		e.same(r, s.content)
		if got := c.sizes(); len(got) != 1 || got[0] != 1000 {
			t.Errorf("delivered %d, want once 1000 bytes", got)
		}
	})
}

// TestBypassReadOn has a client read on after an error: what was wrong stays so,
// also where the last byte, taken into the digest twice, would make it right.
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
				t.Errorf("read %q, %v", got, err)
			}
		}
		// From another place it is asked again.
		s.answer = nil
		if _, err := r.Seek(1, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		e.same(r, s.content[1:])
	})
}
