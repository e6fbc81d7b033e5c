package blobcache_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// TestMeterEndsDrippingSource: a fill that brings too little ends, with readers and without. What
// brings enough goes on for as long as it takes.
func TestMeterEndsDrippingSource(t *testing.T) {
	const kib, lasts = 1 << 10, 12 * time.Minute
	scaled := fill.SourceLimits{MinRate: 160, MinRateUnread: 2560}
	for name, test := range map[string]struct {
		rate   int // bytes a second
		leave  time.Duration
		limits fill.SourceLimits
		ends   time.Duration // 0: when it is whole
	}{
		"read":                        {1, time.Hour, fill.SourceLimits{}, 5 * time.Minute},
		"read, a little too slow":     {15 * kib, time.Hour, fill.SourceLimits{}, 5 * time.Minute},
		"read, just as fast":          {17 * kib, time.Hour, fill.SourceLimits{}, 0},
		"deserted":                    {1, time.Second, fill.SourceLimits{}, 5 * time.Minute},
		"deserted, fast for a reader": {64 * kib, time.Second, fill.SourceLimits{}, 5 * time.Minute},
		"deserted later":              {1000, 6 * time.Minute, scaled, 8 * time.Minute},
		"deserted, fast":              {3000, time.Second, scaled, 0},
		"another window":              {1000, time.Hour, fill.SourceLimits{MinRate: 2000, RateWindow: time.Minute}, time.Minute},
		"no minimum":                  {1, time.Second, fill.SourceLimits{MinRate: -1, MinRateUnread: -1}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, e *env) {
				s := e.source(random(1, test.rate*int(lasts/time.Second)))
				s.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
					return s.body(offset, polite(ctx, Paced(s.from(offset), test.rate, time.Second))), nil
				}
				s.limits = test.limits
				begin := time.Now()
				r := e.mustGet(s)
				time.AfterFunc(test.leave, func() { _ = r.Close() })
				got := <-e.ended
				took := time.Since(begin)
				switch {
				case test.ends == 0 && (got.err != nil || !e.stored(s)):
					t.Errorf("%v after %v", got.err, took)
				case test.ends != 0 && !errors.Is(got.err, fill.ErrTooSlow):
					t.Errorf("%v after %v, want it to be too slow", got.err, took)
				case test.ends != 0 && (took < test.ends || took > test.ends+time.Minute):
					t.Errorf("it ended after %v, want %v", took, test.ends)
				}
			})
		})
	}
}

// TestMeterSparesReturningClient: what is fast enough for a reader is not ended for the time
// in which there was none, if there is one again.
func TestMeterSparesReturningClient(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		const rate = 20 << 10
		s := e.source(random(4, rate*12*60))
		s.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
			return s.body(offset, polite(ctx, Paced(s.from(offset), rate, time.Second))), nil
		}
		r := e.mustGet(s)
		time.Sleep(time.Minute)
		_ = r.Close()
		time.Sleep(time.Minute)
		if origin := e.whole(s); origin != fill.Joined {
			t.Errorf("the client that came back got a download of its own: %v", origin)
		}
	})
}

// TestMeterEndsDrippingBypass: what is passed on without being stored is held to the same,
// but a slow client is not the source's fault.
func TestMeterEndsDrippingBypass(t *testing.T) {
	for name, test := range map[string]struct {
		rate, reads int // bytes a second
		err         error
	}{
		"a slow source": {1000, 1 << 20, fill.ErrTooSlow},
		"a slow client": {1 << 20, 1000, nil},
	} {
		t.Run(name, func(t *testing.T) {
			noSpool(t, func(t *testing.T, e *env) {
				s := e.source(random(2, 1_000_000))
				s.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
					return s.body(offset, polite(ctx, Paced(s.from(offset), test.rate, time.Second))), nil
				}
				begin := time.Now()
				r := e.mustGet(s)
				n, err := io.Copy(io.Discard, Paced(struct{ io.Reader }{r}, test.reads, time.Second))
				if took := time.Since(begin); !errors.Is(err, test.err) || took < 5*time.Minute {
					t.Errorf("read %d bytes, %v after %v; want %v", n, err, took, test.err)
				}
			})
		})
	}
}

// TestMeterStallIncludesResumes: a source that answers each time it is asked to go on, and
// then sends nothing, holds up nobody for longer than one that is silent.
func TestMeterStallIncludesResumes(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(3, 300_000))
		s.limits.Stall = 20 * time.Second
		s.answer = func(ctx context.Context, n int, offset int64) (*fill.Body, error) {
			if n == 0 {
				return s.body(0, io.MultiReader(io.LimitReader(s.from(0), 1000), stalled(ctx))), nil
			}
			time.Sleep(2 * time.Second)
			return s.body(offset, stalled(ctx)), nil
		}
		begin := time.Now()
		r := e.mustGet(s)
		time.Sleep(15 * time.Second)
		late := e.mustGet(s)
		e.broken(r, s, context.DeadlineExceeded)
		e.broken(late, s, context.DeadlineExceeded)
		if took := time.Since(begin); took != 20*time.Second || s.fetches() < 2 {
			t.Errorf("it ended after %v and %d fetches", took, s.fetches())
		}
	})
}
