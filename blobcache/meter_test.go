package blobcache_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// TestMeterEndsDrippingSource checks that a fill ends when its source is slower than the minimum
// rate, with readers and without, and that a fast enough fill goes on until it is whole.
func TestMeterEndsDrippingSource(t *testing.T) {
	const kib, lasts = 1 << 10, 12 * time.Minute
	scaled := fill.SourceLimits{MinRate: 160, MinRateUnread: 2560}
	for name, test := range map[string]struct {
		rate   int // bytes a second
		leave  time.Duration
		limits fill.SourceLimits
		ends   time.Duration // 0: the fill ends when it is whole
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
					t.Errorf("the fill ended after %v: got the error %v and stored: %v, want no error and stored: true", took, got.err, e.stored(s))
				case test.ends != 0 && !errors.Is(got.err, fill.ErrTooSlow):
					t.Errorf("the fill ended after %v: got the error %v, want fill.ErrTooSlow", took, got.err)
				case test.ends != 0 && (took < test.ends || took > test.ends+time.Minute):
					t.Errorf("the fill ended after %v, want %v to %v", took, test.ends, test.ends+time.Minute)
				}
			})
		})
	}
}

// TestMeterSparesReturningClient checks that a fill that is fast enough for a reader is not ended
// for the time in which it had no reader, once it has a reader again.
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
			t.Errorf("the returning client: got origin %v, want %v", origin, fill.Joined)
		}
	})
}

// TestMeterEndsDrippingBypass checks that a transfer that is passed on without being stored ends
// when the source is slower than the minimum rate, but not when the client is.
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
					t.Errorf("read %d bytes with the error %v after %v, want the error %v after at least %v", n, err, took, test.err, 5*time.Minute)
				}
			})
		})
	}
}

// TestMeterStallIncludesResumes checks that the stall limit includes resumed requests: a source
// that answers each of them and then sends no bytes delays a reader no longer than a silent one.
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
			t.Errorf("the transfers broke after %v and %d fetches, want %v and at least 2 fetches", took, s.fetches(), 20*time.Second)
		}
	})
}
