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
					t.Errorf("get: %v", err)
				}
			})
		}
		all.Wait()
		if n := s.fetches(); n != 1 {
			t.Errorf("%d fetches", n)
		}
		synctest.Wait()
		if len(e.troubled()) != 0 {
			t.Errorf("storage is in trouble: %q", e.troubled())
		}
	})
}

func TestGetOfOtherScopeAsksItself(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(41, 1000))
		s.answer = func(_ context.Context, n int, offset int64) (*fill.Body, error) {
			time.Sleep(time.Second)
			if n == 0 {
				return nil, errSource // the first scope has no right to it
			}
			return s.body(offset, s.from(offset)), nil
		}
		var all sync.WaitGroup
		all.Go(func() {
			if _, _, err := e.get(s); !errors.Is(err, errSource) {
				t.Errorf("get: %v", err)
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
			t.Errorf("%d fetches", n)
		}
	})
}

// TestGetOfManyScopesOfDeadSource proves that they do not time out one by one.
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
					t.Errorf("get: %v", err)
				}
			})
		}
		all.Wait()
		if took := time.Since(begin); took > 2*time.Minute || s.fetches() != 10 {
			t.Errorf("took %v and %d fetches", took, s.fetches())
		}
	})
}

// TestGetWhenOtherScopeLeaves has its client go while another scope's source fails.
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
			t.Errorf("get: %v", err)
		}
		time.Sleep(time.Second)
		if n := s.fetches(); n != 1 {
			t.Errorf("%d fetches", n)
		}
	})
}

// TestGetFetchesOnce has requests come at any moment around the end of a fill,
// when content moves from the fill to the store.
func TestGetFetchesOnce(t *testing.T) {
	e := newEnv(t, t.TempDir())
	looked := make(chan struct{}, 1)
	e.store.opened = func(digest.Digest) {
		// Some dawdle between their look into the store and the join.
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
			t.Fatalf("%d fetches in round %d", n, round)
		}
	}
	for range rounds {
		<-e.ended
	}
	e.tidy(t)
}

// TestGetBetweenLookUpAndJoin holds one request in the window while a whole
// fill goes by.
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
				t.Errorf("origin %v", origin)
			}
		})
		synctest.Wait()
		e.whole(s)
		e.whole(other)
		synctest.Wait()
		close(release)
		all.Wait()
		if s.fetches() != 1 || other.fetches() != 1 {
			t.Errorf("%d and %d fetches", s.fetches(), other.fetches())
		}
	})
}

// TestGetDuringCommit is served by the spool, since the store has nothing yet.
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
			t.Fatalf("origin %v, %v", origin, err)
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
			t.Error("flushed before the commit")
		default:
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		e.cache.Flush(ctx) // gives up in time
		close(commit)
		<-flushed
		if !e.stored(s) {
			t.Error("not stored")
		}
	})
}
