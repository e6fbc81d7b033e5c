package blobcache_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// TestFillServesAndStores checks that a fill serves content of several sizes and stores it,
// so that the next request is served from the store.
func TestFillServesAndStores(t *testing.T) {
	for name, size := range map[string]int{"empty": 0, "one byte": 1, "small": 1000, "large": 3<<20 + 7} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, e *env) {
				s := e.source(random(1, size))
				if origin := e.whole(s); origin != fill.Started {
					t.Errorf("first request: got the origin %v, want %v", origin, fill.Started)
				}
				synctest.Wait()
				if !e.stored(s) {
					t.Error("the content is not stored, want it stored")
				}
				if origin := e.whole(s); origin != fill.Hit || s.fetches() != 1 {
					t.Errorf("second request: got the origin %v after %d fetches, want %v after 1", origin, s.fetches(), fill.Hit)
				}
				if got := <-e.ended; got != (ended{s.digest, int64(size), nil}) {
					t.Errorf("FillDone: got %+v, want %+v", got, ended{s.digest, int64(size), nil})
				}
			})
		})
	}
}

// TestFillOtherAlgorithms checks that content is verified by SHA-384 and SHA-512 digests too.
func TestFillOtherAlgorithms(t *testing.T) {
	for _, algorithm := range []digest.Algorithm{digest.SHA384, digest.SHA512} {
		bubble(t, func(t *testing.T, e *env) {
			s := e.source(random(2, 5000))
			s.digest = algorithm.FromBytes(s.content)
			e.whole(s)
			synctest.Wait()
			if !e.stored(s) {
				t.Error("the content is not stored, want it stored")
			}
			s.digest = algorithm.FromString("something else")
			e.fails(s, fill.ErrDigestMismatch)
		})
	}
}

// TestGetOfFiftyClientsFetchesOnce checks that 50 clients, half of which read a range only,
// get right bytes from one fetch.
func TestGetOfFiftyClientsFetchesOnce(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(3, 2<<20))
		s.answer = func(_ context.Context, _ int, offset int64) (*fill.Body, error) {
			return s.body(offset, Paced(s.from(offset), 20_000, time.Millisecond)), nil
		}
		rnd := rand.New(rand.NewPCG(3, 3))
		var all sync.WaitGroup
		for i := range 50 {
			from, late := rnd.Int64N(2<<20), time.Duration(rnd.Int64N(int64(100*time.Millisecond)))
			to := from + rnd.Int64N(2<<20-from)
			all.Go(func() {
				time.Sleep(late)
				r, _, err := e.get(s)
				if err != nil {
					t.Error(err)
					return
				}
				defer r.Close()
				if i%2 == 0 {
					e.same(r, s.content)
					return
				}
				if _, err := r.Seek(from, io.SeekStart); err != nil {
					t.Error(err)
				}
				e.same(io.LimitReader(r, to-from), s.content[from:to])
			})
		}
		all.Wait()
		if n := s.fetches(); n != 1 {
			t.Errorf("got %d fetches, want 1", n)
		}
	})
}

// TestFillHoldsBackLastByte checks that a reader gets all bytes but the last as they come
// from the source, and the last one only when the digest is known to match.
func TestFillHoldsBackLastByte(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s, end := e.source(random(4, 10_000)), make(chan struct{})
		s.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
			return s.body(offset, io.MultiReader(s.from(offset), gated(ctx, end, bytes.NewReader(nil)))), nil
		}
		r := e.mustGet(s)
		got := make([]byte, 9_999)
		if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, s.content[:9_999]) {
			t.Fatal("the bytes before the last: got other bytes or the error", err, "- want the content and no error")
		}
		e.lastHeldBack(r, s, end)
	})
}

// TestFillOutlivesItsStarter checks that a fill continues for other readers, and is stored,
// when the client that started it has left.
func TestFillOutlivesItsStarter(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s, gate := e.source(random(5, 300_000)), make(chan struct{})
		s.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
			return s.body(offset, gated(ctx, gate, s.from(offset))), nil
		}
		ctx, cancel := context.WithCancelCause(t.Context())
		leader, _, err := e.cache.Get(ctx, s.request("a"))
		if err != nil {
			t.Fatal(err)
		}
		defer leader.Close()
		follower := e.mustGet(s)

		gone := errors.New("client is gone")
		var all sync.WaitGroup
		all.Go(func() { e.broken(leader, s, gone) })
		all.Go(func() { e.same(follower, s.content) })
		synctest.Wait()
		cancel(gone)
		synctest.Wait()
		close(gate)
		all.Wait()
		synctest.Wait()
		if !e.stored(s) || s.fetches() != 1 {
			t.Errorf("got stored %t after %d fetches, want true after 1", e.stored(s), s.fetches())
		}
	})
}

// TestFillServesWhileDownloading checks that a fill is finished and stored if its only
// client leaves before the source has answered.
func TestFillServesWhileDownloading(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(6, 1000))
		s.answer = func(_ context.Context, _ int, offset int64) (*fill.Body, error) {
			time.Sleep(time.Second)
			return s.body(offset, s.from(offset)), nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if _, _, err := e.cache.Get(ctx, s.request("a")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("get: got the error %v, want %v", err, context.DeadlineExceeded)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if !e.stored(s) {
			t.Error("the content is not stored after its client has left, want it stored")
		}
	})
}

// TestFillWithSlowReader checks that a slow reader does not delay the fill, and that it gets
// the whole content even if that is removed from the store meanwhile.
func TestFillWithSlowReader(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(7, 5<<20))
		slow := e.mustGet(s)
		if _, err := io.ReadFull(slow, make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		e.whole(s)
		synctest.Wait()
		if !e.stored(s) {
			t.Error("the content is not stored while a slow reader reads it, want it stored")
		}
		if err := e.files.Remove(t.Context(), s.digest); err != nil {
			t.Fatal(err)
		}
		e.same(slow, s.content[10:])
	})
}

// TestFillOfUnknownSize checks that a reader has the right size if the source announces none.
func TestFillOfUnknownSize(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(9, 200_000))
		s.withoutSize()
		r := e.mustGet(s)
		if r.Size() != 200_000 {
			t.Errorf("Size: got %d, want %d", r.Size(), 200_000)
		}
		e.same(r, s.content)
		synctest.Wait()
		if !e.stored(s) {
			t.Error("the content is not stored, want it stored")
		}
	})
}

// TestFillWhenCommitFails checks that readers get the whole content when the commit fails,
// that one storage error is reported and that the next request fetches the content again.
func TestFillWhenCommitFails(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(10, 200_000))
		e.store.onCommit = func() error { return errors.New("no space left on device") }
		e.whole(s)
		if got := <-e.ended; got.err != nil || len(e.troubled()) != 1 {
			t.Errorf("FillDone got %+v and the storage errors are %q, want no fill error and one storage error", got, e.troubled())
		}
		if e.whole(s); s.fetches() != 2 {
			t.Errorf("got %d fetches, want 2", s.fetches())
		}
	})
}
