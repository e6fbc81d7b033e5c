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

// TestBypassIdleSource checks that a transfer that is passed on without being stored is resumed
// when the source sends nothing, and breaks when it still sends nothing.
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
			t.Errorf("the transfer broke after %v and %d fetches, want %v and 2", took, s.fetches(), time.Minute)
		}
	})
}

// TestBypassResumes checks that a transfer without a spool file resumes when the connection
// breaks, also when the source cannot resume and sends the content from the start.
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
					t.Errorf("got the requests %v, want %v", s.calls, want)
				}
			})
		})
	}
}

// TestBypassCostsOneFetch checks that the client that started the fill gets the body that the
// fill has fetched, without a second fetch.
func TestBypassCostsOneFetch(t *testing.T) {
	for name, connections := range map[string]int{"one stream": 1, "ranges": 4} {
		t.Run(name, func(t *testing.T) {
			noSpool(t, func(t *testing.T, e *env) {
				s := e.source(random(121, 300_000))
				s.connections = connections
				if origin := e.whole(s); origin != fill.Started || s.fetches() != 1 {
					t.Errorf("got origin %v after %d fetches, want %v after 1", origin, s.fetches(), fill.Started)
				}
			})
		})
	}
}

// TestFillOfTooLargeAsksForWhole checks that a fill requests content that is too large to store
// in one piece, without ranges, as soon as its size is known.
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
				// The second request does not know the size, so it fetches one range and then the rest.
				if want := []int64{-1, 1000, -1}; !slices.Equal(s.asked, want) {
					t.Errorf("got requests of the lengths %d, want %d", s.asked, want)
				}
			})
		})
	}
}

// TestBypassIsNotForOthers checks that a client that has joined the fill of another client sends a
// request of its own when the content is passed on without being stored, since the source may not
// allow it what the other client may have.
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
				t.Errorf("the client that started the fill: got the error %v, want context.Canceled", err)
			}
		})
		synctest.Wait()
		all.Go(func() {
			if _, _, err := e.cache.Get(t.Context(), other); !errors.Is(err, errSource) {
				t.Errorf("the client that joined the fill: got the error %v, want %v", err, errSource)
			}
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(gate)
		all.Wait()
	})
}

// TestBypassLeaderLeaves checks that the transfer ends when the context of the client that reads
// the body of the fill is cancelled.
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
			t.Errorf("the transfer ended after %v, want %v", took, time.Second)
		}
	})
}
