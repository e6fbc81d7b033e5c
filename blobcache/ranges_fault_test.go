package blobcache_test

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// TestFillRangesBreak checks that a fill completes when every third connection breaks,
// and does not fetch the received bytes again.
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
					t.Errorf("the source sent %d bytes, want %d", s.sent, rangedSize)
				}
				if got := e.resumes(); got == 0 {
					t.Error("the hook got 0 resumes, want at least 1")
				}
			})
		})
	}
}

// TestFillRangesShort checks that a fill completes without a resume when the source
// answers with shorter ranges than it was asked for.
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
			t.Errorf("the source sent %d bytes with %d resumes, want %d bytes and no resume", s.sent, e.resumes(), rangedSize)
		}
	})
}

// TestFillRangesRefused checks that a fill completes when the source refuses some of the
// connections.
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
				t.Errorf("the source sent %d bytes, want %d", s.sent, rangedSize)
			}
		})
	}
}

// TestFillRangesLeftBehind checks that a fill completes when its slowest connection breaks
// at the end, while the others have no range left, and the next fetches are refused.
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
			if n == 1 { // sends 10 bytes and breaks
				return s.span(offset, length, io.MultiReader(io.LimitReader(s.from(offset), 10), Paced(cut(s.from(offset), 0), 1, 5*time.Second))), nil
			}
			return s.slow(ctx, offset, length), nil
		}
		e.whole(s)
		if failures == 0 {
			t.Error("got 0 failures at the end, want at least 1")
		}
	})
}

// TestFillRangesEndForGood checks that a fill fails when all connections break and the
// source refuses every later request.
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
			t.Errorf("the fill failed after %v and %d fetches, want at most 10s and 24 fetches", took, s.fetches())
		}
		s.ranged = nil
		e.whole(s)
	})
}

// TestFillRangesStall checks that a fill replaces connections that send nothing after five
// to seven seconds, long before a single connection would fail.
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
			t.Errorf("the fill took %v, want 5s to 7s", took)
		}
		if lost := rangedSize - s.sent; lost < 0 || lost > 2000 {
			t.Errorf("the replacing connections sent %d bytes, want %d to %d", s.sent, rangedSize-2000, rangedSize)
		}
	})
}

// TestFillRangesTooLong checks that a fill fails when the source sends more bytes than the
// content has, and that the next one succeeds.
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
		e.whole(s) // over one connection, with a body of the announced size
	})
}
