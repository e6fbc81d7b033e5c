package blobcache_test

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// TestBypassIdleSource is resumed, and a broken transfer in the end.
func TestBypassIdleSource(t *testing.T) {
	noSpool(t, func(t *testing.T, e *env) {
		s := e.source(random(79, 1000))
		s.answer = func(ctx context.Context, n int, offset int64) (*fill.Body, error) {
			if n == 0 {
				return s.body(0, io.MultiReader(io.LimitReader(s.from(0), 10), stalled(ctx))), nil
			}
			return s.body(offset, stalled(ctx)), nil
		}
		begin := time.Now()
		e.broken(e.mustGet(s), s, context.DeadlineExceeded)
		if took := time.Since(begin); took != time.Minute || s.fetches() != 2 {
			t.Errorf("gave up after %v and %d fetches", took, s.fetches())
		}
	})
}

// TestBypassResumes has a source that breaks, and one that cannot resume.
func TestBypassResumes(t *testing.T) {
	const size = 400_000
	for name, again := range map[string]func(offset int64) int64{
		"from there":     func(offset int64) int64 { return offset },
		"from the start": func(int64) int64 { return 0 },
	} {
		t.Run(name, func(t *testing.T) {
			noSpool(t, func(t *testing.T, e *env) {
				s := e.source(random(120, size))
				s.answer = func(_ context.Context, n int, offset int64) (*fill.Body, error) {
					offset = again(offset)
					if n < 3 {
						return s.body(offset, cut(s.from(offset), int64(n+1)*100_000-offset)), nil
					}
					return s.body(offset, s.from(offset)), nil
				}
				e.whole(s)
				want := []call{{0, ""}, {100_000, `"v1"`}, {200_000, `"v1"`}, {300_000, `"v1"`}}
				if !slices.Equal(s.calls, want) {
					t.Errorf("asked %v instead of %v", s.calls, want)
				}
			})
		})
	}
}

// TestBypassCostsOneFetch: what the fill was answered is the leader's.
func TestBypassCostsOneFetch(t *testing.T) {
	for name, connections := range map[string]int{"one stream": 1, "ranges": 4} {
		t.Run(name, func(t *testing.T) {
			noSpool(t, func(t *testing.T, e *env) {
				s := e.source(random(121, 300_000))
				s.connections = connections
				if origin := e.whole(s); origin != fill.Started || s.fetches() != 1 {
					t.Errorf("origin %v after %d fetches", origin, s.fetches())
				}
			})
		})
	}
}

// TestFillOfTooLargeAsksForWhole: what will not be stored needs no ranges.
func TestFillOfTooLargeAsksForWhole(t *testing.T) {
	for name, limits := range map[string]blobcache.Limits{
		"max_blob_size": {MaxBlobSize: 299_999, Reserve: -1},
		"max_size":      {MaxSize: 299_999, Reserve: -1},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, e *env) {
				e.cache = blobcache.New(e.store, limits, e.hooks())
				e.cache.SetSpans(1000, 1000, 1000)
				s := e.source(random(124, 300_000))
				s.connections = 4
				for _, known := range []int64{300_000, -1} {
					req := s.request("a")
					req.Size = known
					r, _, err := e.cache.Get(t.Context(), req)
					if err != nil {
						t.Fatal(err)
					}
					e.same(r, s.content)
					_ = r.Close()
				}
				// One range, and the rest, where the size was not known before.
				if want := []int64{-1, 1000, -1}; !slices.Equal(s.asked, want) {
					t.Errorf("asked for %d bytes instead of %d", s.asked, want)
				}
			})
		})
	}
}

// TestBypassIsNotForOthers: who follows another one's fill asks for himself,
// since it may be that he is not allowed to have what that one got.
func TestBypassIsNotForOthers(t *testing.T) {
	noSpool(t, func(t *testing.T, e *env) {
		s, gate := e.source(random(122, 300_000)), make(chan struct{})
		s.answer = func(_ context.Context, _ int, offset int64) (*fill.Body, error) {
			<-gate
			return s.body(offset, s.from(offset)), nil
		}
		other := s.request("b")
		other.Fetch = func(context.Context, int64, int64, string) (*fill.Body, error) { return nil, errSource }
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			if _, _, err := e.cache.Get(ctx, s.request("a")); !errors.Is(err, context.Canceled) {
				t.Errorf("the leader: %v", err)
			}
		})
		synctest.Wait()
		all.Go(func() {
			if _, _, err := e.cache.Get(t.Context(), other); !errors.Is(err, errSource) {
				t.Errorf("the other: %v", err)
			}
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(gate)
		all.Wait()
	})
}

// TestBypassLeaderLeaves with the body of the fill in hand.
func TestBypassLeaderLeaves(t *testing.T) {
	noSpool(t, func(t *testing.T, e *env) {
		s := e.source(random(123, 300_000))
		s.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
			return s.body(offset, io.MultiReader(io.LimitReader(s.from(0), 1000), stalled(ctx))), nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		r, _, err := e.cache.Get(ctx, s.request("a"))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		time.AfterFunc(time.Second, cancel)
		begin := time.Now()
		e.broken(r, s, context.Canceled)
		if took := time.Since(begin); took != time.Second {
			t.Errorf("took %v", took)
		}
	})
}
