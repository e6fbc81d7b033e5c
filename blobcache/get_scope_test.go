package blobcache_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// TestGetSharesFailureWithinScope checks that concurrent requests of one scope share one
// failed fetch, and that a failure of the source is not reported as a storage error.
func TestGetSharesFailureWithinScope(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(40, 1000))
		s.answer = func(context.Context, int, int64) (*fill.Body, error) {
			time.Sleep(time.Second)
			return nil, errSource
		}
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if _, _, err := e.get(s); !errors.Is(err, errSource) {
					t.Errorf("get: got the error %v, want %v", err, errSource)
				}
			})
		}
		all.Wait()
		if n := s.fetches(); n != 1 {
			t.Errorf("got %d fetches, want 1", n)
		}
		synctest.Wait()
		if len(e.troubled()) != 0 {
			t.Errorf("got the storage errors %q, want none", e.troubled())
		}
	})
}

// TestGetOfOtherScopeAsksItself checks that requests of a second scope, which wait for a
// fill of the first, ask the source themselves when that fill fails.
func TestGetOfOtherScopeAsksItself(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(41, 1000))
		s.answer = func(_ context.Context, n int, offset int64) (*fill.Body, error) {
			time.Sleep(time.Second)
			if n == 0 {
				return nil, errSource // the source denies the content to the first scope
			}
			return s.body(offset, s.from(offset)), nil
		}
		var all sync.WaitGroup
		all.Go(func() {
			if _, _, err := e.get(s); !errors.Is(err, errSource) {
				t.Errorf("get: got the error %v, want %v", err, errSource)
			}
		})
		synctest.Wait()
		for range 5 {
			all.Go(func() {
				r, _, err := e.cache.Get(t.Context(), s.request("b"))
				if err != nil {
					t.Error(err)
					return
				}
				defer r.Close()
				e.same(r, s.content)
			})
		}
		all.Wait()
		if n := s.fetches(); n != 2 {
			t.Errorf("got %d fetches, want 2", n)
		}
	})
}

// TestGetOfManyScopesOfDeadSource checks that the requests of many scopes to a source that
// does not answer time out at the same time and not one after the other.
func TestGetOfManyScopesOfDeadSource(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(42, 1000))
		s.answer = func(ctx context.Context, _ int, _ int64) (*fill.Body, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		begin := time.Now()
		var all sync.WaitGroup
		for i := range 30 {
			all.Go(func() {
				if _, _, err := e.cache.Get(t.Context(), s.request(fmt.Sprint(i%10))); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("get: got the error %v, want %v", err, context.DeadlineExceeded)
				}
			})
		}
		all.Wait()
		if took := time.Since(begin); took > 2*time.Minute || s.fetches() != 10 {
			t.Errorf("the requests took %v and %d fetches, want at most %v and 10 fetches", took, s.fetches(), 2*time.Minute)
		}
	})
}

// TestGetWhenOtherScopeLeaves checks that a client that leaves while it waits for the fill
// of another scope gets the error of its context, and that no fetch is made for it.
func TestGetWhenOtherScopeLeaves(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(43, 1000))
		s.answer = func(context.Context, int, int64) (*fill.Body, error) {
			time.Sleep(time.Second)
			return nil, errSource
		}
		go func() { _, _, _ = e.get(s) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if _, _, err := e.cache.Get(ctx, s.request("b")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("get: got the error %v, want %v", err, context.DeadlineExceeded)
		}
		time.Sleep(time.Second)
		if n := s.fetches(); n != 1 {
			t.Errorf("got %d fetches, want 1", n)
		}
	})
}

// TestGetFetchesOnce checks that content is fetched once although requests come at any
// moment around the end of a fill, when the content moves from the fill to the store.
func TestGetFetchesOnce(t *testing.T) {
	e := newEnv(t, t.TempDir())
	looked := make(chan struct{}, 1)
	e.store.opened = func(digest.Digest) {
		// Delay some requests between the lookup in the store and the join of a fill.
		select {
		case looked <- struct{}{}:
		case <-looked:
		}
	}
	const rounds, clients = 150, 12
	for round := range rounds {
		s := e.source(random(uint64(round), 2000))
		var all sync.WaitGroup
		for range clients {
			all.Go(func() {
				for range 3 {
					e.whole(s)
				}
			})
		}
		all.Wait()
		if n := s.fetches(); n != 1 {
			t.Fatalf("round %d: got %d fetches, want 1", round, n)
		}
	}
	for range rounds {
		<-e.ended
	}
	e.tidy(t)
}

// TestGetBetweenLookUpAndJoin checks that a request is served from the store if a whole
// fill begins and ends between the request's lookup in the store and its join of a fill.
func TestGetBetweenLookUpAndJoin(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s, other := e.source(random(44, 1000)), e.source(random(45, 1000))
		held, release := make(chan struct{}, 1), make(chan struct{})
		held <- struct{}{}
		e.store.opened = func(d digest.Digest) {
			if d != s.digest {
				return
			}
			select {
			case <-held:
				<-release
			default:
			}
		}
		var all sync.WaitGroup
		all.Go(func() {
			if origin := e.whole(s); origin != fill.Hit {
				t.Errorf("got the origin %v, want %v", origin, fill.Hit)
			}
		})
		synctest.Wait()
		e.whole(s)
		e.whole(other)
		synctest.Wait()
		close(release)
		all.Wait()
		if s.fetches() != 1 || other.fetches() != 1 {
			t.Errorf("got %d fetches of the content and %d of the other, want 1 of each", s.fetches(), other.fetches())
		}
	})
}

// TestGetDuringCommit checks that a request during the commit is served from the spool, and
// that Flush waits for the commit or for the end of its context.
func TestGetDuringCommit(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s, commit := e.source(random(46, 100_000)), make(chan struct{})
		e.store.onCommit = func() error {
			<-commit
			return nil
		}
		e.whole(s)
		synctest.Wait()
		r, origin, err := e.get(s)
		if err != nil || origin != fill.Joined {
			t.Fatalf("get: got the origin %v and the error %v, want %v and no error", origin, err, fill.Joined)
		}
		defer r.Close()
		if _, err := r.Seek(-1, io.SeekEnd); err != nil {
			t.Fatal(err)
		}
		e.same(r, s.content[99_999:])

		flushed := make(chan struct{})
		go func() {
			e.cache.Flush(t.Context())
			close(flushed)
		}()
		synctest.Wait()
		select {
		case <-flushed:
			t.Error("Flush returned before the commit, want it to wait")
		default:
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		e.cache.Flush(ctx) // returns when ctx ends
		close(commit)
		<-flushed
		if !e.stored(s) {
			t.Error("the content is not stored, want it stored")
		}
	})
}
