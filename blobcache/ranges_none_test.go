package blobcache_test

import (
	"context"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// rangeless maps a description to a source that does not answer range requests correctly. A fill
// must still fetch its content, without an error for any reader.
var rangeless = map[string]func(s *source, ctx context.Context, n int, offset, length int64) *fill.Body{
	"from the first request on": func(s *source, ctx context.Context, n int, offset, length int64) *fill.Body {
		return s.slow(ctx, 0, -1)
	},
	"from the second on": func(s *source, ctx context.Context, n int, offset, length int64) *fill.Body {
		if n > 0 {
			offset, length = 0, -1
		}
		return s.slow(ctx, offset, length)
	},
	"later": func(s *source, ctx context.Context, n int, offset, length int64) *fill.Body {
		if n > 5 {
			offset, length = 0, -1
		}
		return s.slow(ctx, offset, length)
	},
	"ranges without an end": func(s *source, ctx context.Context, n int, offset, length int64) *fill.Body {
		if n > 2 {
			length = -1
		}
		return s.slow(ctx, offset, length)
	},
	"another validator": func(s *source, ctx context.Context, n int, offset, length int64) *fill.Body {
		body := s.slow(ctx, offset, length)
		if n > 2 {
			body.ETag = `"v2"`
		}
		return body
	},
	"another validator each time": func(s *source, ctx context.Context, n int, offset, length int64) *fill.Body {
		body := s.slow(ctx, offset, length)
		body.ETag = string(rune('a' + n))
		return body
	},
	"no validator": func(s *source, ctx context.Context, n int, offset, length int64) *fill.Body {
		body := s.slow(ctx, offset, length)
		body.ETag = ""
		return body
	},
	"another range": func(s *source, ctx context.Context, n int, offset, length int64) *fill.Body {
		if n > 2 {
			offset -= min(offset, 10_000)
		}
		return s.slow(ctx, offset, length)
	},
	"another size, once": func(s *source, ctx context.Context, n int, offset, length int64) *fill.Body {
		body := s.slow(ctx, offset, length)
		if n == 3 {
			body.Size++
		}
		return body
	},
	"an empty range, once": func(s *source, ctx context.Context, n int, offset, length int64) *fill.Body {
		if n == 3 {
			length = 0
		}
		return s.slow(ctx, offset, length)
	},
}

// TestFillWithoutRanges checks that a fill fetches and stores the whole content of each rangeless
// source, and that readers at different offsets get the right bytes.
func TestFillWithoutRanges(t *testing.T) {
	for name, answer := range rangeless {
		t.Run(name, func(t *testing.T) {
			ranges(t, func(t *testing.T, e *env, s *source) {
				s.ranged = func(ctx context.Context, n int, offset, length int64) (*fill.Body, error) {
					return answer(s, ctx, n, offset, length), nil
				}
				var all sync.WaitGroup
				for i := range int64(5) {
					all.Go(func() {
						time.Sleep(time.Duration(i) * 100 * time.Millisecond)
						r := e.mustGet(s)
						if _, err := r.Seek(i*900_000, io.SeekStart); err != nil {
							t.Error(err)
						}
						e.same(r, s.content[i*900_000:])
					})
				}
				all.Wait()
				synctest.Wait()
				if !e.stored(s) {
					t.Error("the content was not stored")
				}
				if got := <-e.ended; got.err != nil || s.fetches() > 40 {
					t.Errorf("hook: got %+v after %d fetches, want no error after at most 40", got, s.fetches())
				}
			})
		})
	}
}

// TestFillWithoutRangesResumes checks that a fill gets the whole content from a source that does
// not answer range requests and whose connections break.
func TestFillWithoutRangesResumes(t *testing.T) {
	ranges(t, func(t *testing.T, e *env, s *source) {
		s.ranged = func(ctx context.Context, n int, offset, length int64) (*fill.Body, error) {
			if n == 0 {
				return s.slow(ctx, offset, length), nil
			}
			body := s.slow(ctx, 0, -1)
			if n < 9 {
				body.ReadCloser = &sourceBody{cut(body.ReadCloser, int64(n)*400_000), s}
			}
			return body, nil
		}
		e.whole(s)
	})
}

// TestFillWithWrongRanges checks that a fill fails for all of its readers when the source sends
// ranges with the wrong bytes, and that the next request fetches the content in one stream.
func TestFillWithWrongRanges(t *testing.T) {
	ranges(t, func(t *testing.T, e *env, s *source) {
		s.ranged = func(ctx context.Context, _ int, offset, length int64) (*fill.Body, error) {
			body := s.slow(ctx, offset, length)
			if offset > 0 {
				body.ReadCloser = &sourceBody{io.LimitReader(s.from(offset-1), length), s}
			}
			return body, nil
		}
		early, late := e.mustGet(s), e.mustGet(s)
		if _, err := late.Seek(2_000_000, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		all.Go(func() { e.broken(early, s, fill.ErrDigestMismatch) })
		all.Go(func() { e.broken(late, s, fill.ErrDigestMismatch) })
		all.Wait()
		synctest.Wait()
		if e.stored(s) {
			t.Error("content with the wrong bytes was stored")
		}
		before := s.fetches()
		if e.whole(s); s.fetches() != before+1 {
			t.Errorf("got %d more fetches, want 1", s.fetches()-before)
		}
	})
}
