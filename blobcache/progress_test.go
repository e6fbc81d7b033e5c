package blobcache_test

import (
	"context"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// after waits for a time, or for the end of ctx.
func after(ctx context.Context, wait time.Duration) error {
	select {
	case <-time.After(wait):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stuckSource is a source that sends the first 100000 bytes of its content and no others.
type stuckSource struct {
	name   string
	answer func(s *source, ctx context.Context, n int, offset int64) *fill.Body
	pause  time.Duration // before each answer but the first
	ends   time.Duration // when the transfer must have ended, at the latest
}

var stuckSources = []stuckSource{
	{"sends headers", func(s *source, ctx context.Context, n int, offset int64) *fill.Body {
		return s.body(offset, io.MultiReader(io.LimitReader(s.from(offset), 100_000-offset), stalled(ctx)))
	}, 29 * time.Second, time.Minute},
	{"repeats its bytes", func(s *source, ctx context.Context, _ int, _ int64) *fill.Body {
		return s.body(0, io.MultiReader(io.LimitReader(s.from(0), 100_000), stalled(ctx)))
	}, 25 * time.Second, time.Minute},
	// The first repetition, which takes 30 seconds, does not count.
	{"repeats its bytes slowly", func(s *source, ctx context.Context, n int, _ int64) *fill.Body {
		if n == 0 {
			return s.body(0, cut(s.from(0), 100_000))
		}
		return s.body(0, polite(ctx, &bursts{r: cut(s.from(0), 90_000), size: 30_000, pause: 10 * time.Second}))
	}, 0, 100 * time.Second},
}

// TestFillEndsWithoutProgress checks that a transfer ends a minute after the source has sent
// something new, whether it is stored or passed on: neither the header of a response nor bytes
// that a source without ranges repeats are progress. A client that joins the transfer waits no
// longer.
func TestFillEndsWithoutProgress(t *testing.T) {
	for _, stuck := range stuckSources {
		t.Run(stuck.name+", stored", func(t *testing.T) {
			bubble(t, func(t *testing.T, e *env) {
				began := time.Now()
				s := stuck.source(e)
				time.AfterFunc(40*time.Second, func() {
					e.fails(s, context.DeadlineExceeded)
					stuck.check(t, "the second client", began)
				})
				e.fails(s, context.DeadlineExceeded)
				stuck.check(t, "the first client", began)
				synctest.Wait()
			})
		})
		t.Run(stuck.name+", passed on", func(t *testing.T) {
			noSpool(t, func(t *testing.T, e *env) {
				began := time.Now()
				e.fails(stuck.source(e), context.DeadlineExceeded)
				stuck.check(t, "the client", began)
			})
		})
	}
}

func (stuck *stuckSource) source(e *env) *source {
	s := e.source(random(30, 300_000))
	s.answer = func(ctx context.Context, n int, offset int64) (*fill.Body, error) {
		if n > 0 {
			if err := after(ctx, stuck.pause); err != nil {
				return nil, err
			}
		}
		return stuck.answer(s, ctx, n, offset), nil
	}
	return s
}

// check checks when a client's pull has ended.
func (stuck *stuckSource) check(t *testing.T, who string, began time.Time) {
	if took := time.Since(began); took < time.Minute || took > stuck.ends {
		t.Errorf("%s: the pull ended after %v, want 1m0s to %v", who, took, stuck.ends)
	}
}

// TestFillEndsWithoutFirstByte checks that a transfer ends after a minute if the source
// sends headers of responses and nothing else.
func TestFillEndsWithoutFirstByte(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(31, 300_000))
		s.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
			if err := after(ctx, 29*time.Second); err != nil {
				return nil, err
			}
			return s.body(offset, stalled(ctx)), nil
		}
		began := time.Now()
		e.fails(s, context.DeadlineExceeded)
		if took := time.Since(began); took != time.Minute {
			t.Errorf("the transfer ended after %v and %d fetches, want 1m0s", took, s.fetches())
		}
	})
}
