package blobcache_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// deserted runs a test with a cache that stops abandoned fills if stop is true, and with a
// source that sends 40 MiB of content at a quarter of a MiB per second.
func deserted(t *testing.T, stop bool, test func(t *testing.T, e *env, s *source)) {
	t.Helper()
	bubble(t, func(t *testing.T, e *env) {
		e.cache = blobcache.New(e.store, blobcache.Limits{StopAbandoned: stop, Reserve: -1}, e.hooks())
		s := e.source(random(210, 40<<20))
		s.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
			return s.body(offset, polite(ctx, s.counted(Paced(s.from(offset), 64<<10, time.Second/4)))), nil
		}
		test(t, e, s)
	})
}

// leave is a client that reads n bytes and disconnects.
func (e *env) leave(s *source, n int64) {
	e.t.Helper()
	r, _, err := e.get(s)
	if err != nil {
		e.t.Fatal(err)
	}
	defer r.Close()
	if got, err := io.CopyN(io.Discard, r, n); err != nil {
		e.t.Errorf("read %d bytes and got the error %v, want %d bytes and no error", got, err, n)
	}
}

// desertions returns the recorded calls of Hooks.Abandoned.
func (e *env) desertions() []abandoned {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.abandoned)
}

// TestFillFinishesAbandoned checks that an abandoned fill goes on to its end if StopAbandoned
// is not set.
func TestFillFinishesAbandoned(t *testing.T) {
	deserted(t, false, func(t *testing.T, e *env, s *source) {
		e.leave(s, 1<<20)
		time.Sleep(time.Hour)
		if got := <-e.ended; got.err != nil || !e.stored(s) || s.fetches() != 1 {
			t.Errorf("FillDone: got %+v after %d fetches, want no error, the content stored and 1 fetch", got, s.fetches())
		}
		if got := e.desertions(); !slices.Equal(got, []abandoned{{1 << 20, 40 << 20, true}}) {
			t.Errorf("Abandoned: got %+v, want %+v", got, []abandoned{{1 << 20, 40 << 20, true}})
		}
	})
}

// TestFillStopsAbandoned checks that a fill is stopped after its last reader has left, and
// that a later request fetches the content from its start.
func TestFillStopsAbandoned(t *testing.T) {
	deserted(t, true, func(t *testing.T, e *env, s *source) {
		e.leave(s, 1<<20)
		time.Sleep(time.Minute)
		if got := <-e.ended; !errors.Is(got.err, fill.ErrAbandoned) || got.size > 4<<20 || s.sent > 4<<20 {
			t.Errorf("FillDone: got %+v after the source had sent %d bytes, want the error %v and at most %d bytes", got, s.sent, fill.ErrAbandoned, 4<<20)
		}
		if got := e.desertions(); len(got) != 1 || got[0].goesOn {
			t.Errorf("Abandoned: got %+v, want one call with goesOn false", got)
		}
		e.tidy(t)
		e.whole(s)
		if s.fetches() != 2 {
			t.Errorf("got %d fetches, want 2", s.fetches())
		}
	})
}

// TestFillStopsAbandonedAfterGrace checks that a fill is not stopped between the requests of a
// client that asks for one range after the other, each within the grace period.
func TestFillStopsAbandonedAfterGrace(t *testing.T) {
	deserted(t, true, func(t *testing.T, e *env, s *source) {
		for range 20 {
			e.leave(s, 1000)
			time.Sleep(9 * time.Second)
		}
		synctest.Wait()
		if got := <-e.ended; got.err != nil || s.fetches() != 1 || len(e.desertions()) != 0 {
			t.Errorf("FillDone: got %+v after %d fetches, Abandoned: got %+v; want no error, 1 fetch and no call", got, s.fetches(), e.desertions())
		}
	})
}

// TestFillFinishesAbandonedNearlyDone checks that an abandoned fill goes on to its end if it
// is nearly done.
func TestFillFinishesAbandonedNearlyDone(t *testing.T) {
	deserted(t, true, func(t *testing.T, e *env, s *source) {
		e.leave(s, 1<<20)
		e.leave(s, 8<<20)
		time.Sleep(time.Minute)
		if got := <-e.ended; got.err != nil || !e.stored(s) {
			t.Errorf("FillDone: got %+v, want no error and the content stored", got)
		}
		if got := e.desertions(); len(got) == 0 || !got[0].goesOn {
			t.Errorf("Abandoned: got %+v, want a first call with goesOn true", got)
		}
	})
}

// TestFillStopsAbandonedUnanswered checks that an abandoned fill is stopped if its source does
// not answer, or answers without a size and sends nothing.
func TestFillStopsAbandonedUnanswered(t *testing.T) {
	deserted(t, true, func(t *testing.T, e *env, s *source) {
		s.answer = func(ctx context.Context, n int, _ int64) (*fill.Body, error) {
			if n == 0 {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			body := s.body(0, stalled(ctx))
			body.Size = -1
			return body, nil
		}
		for range 2 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			begin := time.Now()
			if _, _, err := e.cache.Get(ctx, s.request("a")); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("get: got the error %v, want %v", err, context.DeadlineExceeded)
			}
			if got := <-e.ended; !errors.Is(got.err, fill.ErrAbandoned) || time.Since(begin) != 11*time.Second {
				t.Errorf("FillDone: got %+v after %v, want the error %v after %v", got, time.Since(begin), fill.ErrAbandoned, 11*time.Second)
			}
		}
	})
}

// TestFillStopsAbandonedRanges checks that an abandoned fill of several ranges is stopped and
// closes all its connections.
func TestFillStopsAbandonedRanges(t *testing.T) {
	deserted(t, true, func(t *testing.T, e *env, s *source) {
		e.cache.SetSpans(1<<20, 1<<20, 4<<20)
		s.connections = 4
		s.ranged = func(ctx context.Context, _ int, offset, length int64) (*fill.Body, error) {
			return s.span(offset, length, polite(ctx, Paced(s.from(offset), 1000, time.Second))), nil
		}
		e.leave(s, 1000)
		if got := <-e.ended; !errors.Is(got.err, fill.ErrAbandoned) {
			t.Errorf("FillDone: got %+v, want the error %v", got, fill.ErrAbandoned)
		}
		s.ranged = nil
		e.whole(s)
	})
}

// TestCacheFills checks the progress that Fills returns before, during and after fills, and
// the number of calls of Hooks.Joined.
func TestCacheFills(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		if got := e.cache.Fills(); len(got) != 0 {
			t.Errorf("before the first fill: got the fills %+v, want none", got)
		}
		begin := time.Now()
		s, gate := e.source(random(211, 200_000)), make(chan struct{})
		s.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
			return s.body(offset, io.MultiReader(io.LimitReader(s.from(0), 1000), gated(ctx, gate, s.from(1000)))), nil
		}
		readers := []*blobcache.Reader{e.mustGet(s), e.mustGet(s), e.mustGet(s)}
		time.Sleep(time.Second)
		other := e.source(random(212, 1000))
		other.answer = func(_ context.Context, _ int, offset int64) (*fill.Body, error) {
			<-gate
			return other.body(offset, other.from(offset)), nil
		}
		go func() { _ = e.whole(other) }()
		synctest.Wait()
		want := []fill.Progress{
			{Digest: s.digest, Size: 200_000, Written: 1000, Readers: 3, Since: begin},
			{Digest: other.digest, Size: -1, Written: 0, Readers: 1, Since: begin.Add(time.Second)},
		}
		if got := e.cache.Fills(); !slices.Equal(got, want) {
			t.Errorf("during the fills: got %+v, want %+v", got, want)
		}
		if err := readers[0].Close(); err != nil {
			t.Error(err)
		}
		if got := e.cache.Fills(); got[0].Readers != 2 || e.joined != 2 {
			t.Errorf("after one of 3 readers has left: got the fills %+v and %d calls of Joined, want 2 readers of the first and 2 calls", got, e.joined)
		}
		close(gate)
		synctest.Wait()
		if got := e.cache.Fills(); len(got) != 0 {
			t.Errorf("after the last fill: got the fills %+v, want none", got)
		}
	})
}
