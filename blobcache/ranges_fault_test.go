package blobcache_test

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// TestFillRangesBreak has each third connection break; what came is not asked again.
func TestFillRangesBreak(t *testing.T) {
	for name, cutOff := range map[string]func(io.Reader, int64) io.Reader{"error": cut, "end": io.LimitReader} {
		t.Run(name, func(t *testing.T) {
			ranges(t, func(t *testing.T, e *env, s *source) {
				s.ranged = func(ctx context.Context, n int, offset, length int64) (*fill.Body, error) {
					body := s.slow(ctx, offset, length)
					if n%3 == 0 {
						body.ReadCloser = &sourceBody{cutOff(body.ReadCloser, 70_000), s}
					}
					return body, nil
				}
				e.whole(s)
				if s.sent != rangedSize {
					t.Errorf("%d bytes were sent", s.sent)
				}
				if got := e.resumes(); got == 0 {
					t.Error("no hook")
				}
			})
		})
	}
}

// TestFillRangesShort has a source that gives no more than it likes to at a time.
func TestFillRangesShort(t *testing.T) {
	ranges(t, func(t *testing.T, e *env, s *source) {
		s.ranged = func(ctx context.Context, n int, offset, length int64) (*fill.Body, error) {
			if n > 0 {
				length = min(length, 60_000)
			}
			return s.slow(ctx, offset, length), nil
		}
		e.whole(s)
		if s.sent != rangedSize || e.resumes() != 0 {
			t.Errorf("%d bytes were sent, %d resumes", s.sent, e.resumes())
		}
	})
}

// TestFillRangesRefused has a source that lets only some connections in.
func TestFillRangesRefused(t *testing.T) {
	for _, limit := range []int{1, 2, 3} {
		ranges(t, func(t *testing.T, e *env, s *source) {
			s.ranged = func(ctx context.Context, n int, offset, length int64) (*fill.Body, error) {
				s.mu.Lock()
				full := s.open >= limit
				s.mu.Unlock()
				if full {
					return nil, errSource
				}
				return s.slow(ctx, offset, length), nil
			}
			e.whole(s)
			if s.sent != rangedSize {
				t.Errorf("%d bytes were sent", s.sent)
			}
		})
	}
}

// TestFillRangesLeftBehind: what the slowest connection drops at the very end, when
// the others have nothing more to do, and for longer than it is patient.
func TestFillRangesLeftBehind(t *testing.T) {
	ranges(t, func(t *testing.T, e *env, s *source) {
		var failures int
		s.ranged = func(ctx context.Context, n int, offset, length int64) (*fill.Body, error) {
			s.mu.Lock()
			alone := s.sent > 3_700_000
			s.mu.Unlock()
			if n > 0 && alone && failures < 7 {
				failures++
				return nil, errSource
			}
			if n == 1 { // never gets far
				return s.span(offset, length, io.MultiReader(io.LimitReader(s.from(offset), 10), Paced(cut(s.from(offset), 0), 1, 5*time.Second))), nil
			}
			return s.slow(ctx, offset, length), nil
		}
		e.whole(s)
		if failures == 0 {
			t.Error("nothing failed at the end")
		}
	})
}

// TestFillRangesEndForGood has all connections fail for ever.
func TestFillRangesEndForGood(t *testing.T) {
	ranges(t, func(t *testing.T, e *env, s *source) {
		s.ranged = func(ctx context.Context, n int, offset, length int64) (*fill.Body, error) {
			if n < 4 {
				return s.span(offset, length, cut(s.from(offset), 30_000)), nil
			}
			return nil, errSource
		}
		begin := time.Now()
		e.broken(e.mustGet(s), s, errSource)
		if took := time.Since(begin); took > 10*time.Second || s.fetches() > 24 {
			t.Errorf("gave up after %v and %d fetches", took, s.fetches())
		}
		s.ranged = nil
		e.whole(s)
	})
}

// TestFillRangesStall has some connections send nothing any more: others take their
// place long before a lone one would be given up.
func TestFillRangesStall(t *testing.T) {
	ranges(t, func(t *testing.T, e *env, s *source) {
		s.ranged = func(ctx context.Context, n int, offset, length int64) (*fill.Body, error) {
			if n == 1 || n == 2 {
				return s.span(offset, length, io.MultiReader(io.LimitReader(s.from(offset), 1000), stalled(ctx))), nil
			}
			return s.slow(ctx, offset, length), nil
		}
		begin := time.Now()
		e.whole(s)
		if took := time.Since(begin); took < 5*time.Second || took > 7*time.Second {
			t.Errorf("took %v", took)
		}
		if lost := rangedSize - s.sent; lost < 0 || lost > 2000 {
			t.Errorf("%d bytes were sent beside the two beginnings", s.sent)
		}
	})
}

// TestFillRangesTooLong has a source that goes on after the end of the content.
func TestFillRangesTooLong(t *testing.T) {
	ranges(t, func(t *testing.T, e *env, s *source) {
		s.ranged = func(ctx context.Context, n int, offset, length int64) (*fill.Body, error) {
			if offset+length < rangedSize {
				return s.slow(ctx, offset, length), nil
			}
			body := s.slow(ctx, offset, length)
			body.ReadCloser = &sourceBody{io.MultiReader(body.ReadCloser, s.from(0)), s}
			return body, nil
		}
		e.fails(s, fill.ErrDigestMismatch)
		e.whole(s) // in one stream, which is as long as it says
	})
}
