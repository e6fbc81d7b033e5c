package blobcache_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// TestFillResumes checks that a fill continues at the byte where the source broke off,
// with the latest validator, and stores the content.
func TestFillResumes(t *testing.T) {
	const size = 300_000
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(20, size))
		s.answer = func(_ context.Context, n int, offset int64) (*fill.Body, error) {
			switch n {
			case 0:
				return s.body(offset, cut(s.from(offset), 100_000)), nil
			case 1: // the body ends before its announced size
				body := s.body(offset, io.LimitReader(s.from(offset), 50_000))
				body.ETag = `"v2"`
				return body, nil
			case 2:
				return nil, errSource
			default: // the answer has neither a validator nor a size
				body := s.body(offset, s.from(offset))
				body.ETag, body.Size = "", -1
				return body, nil
			}
		}
		e.whole(s)
		want := []call{{0, ""}, {100_000, `"v1"`}, {150_000, `"v2"`}, {150_000, `"v2"`}}
		if !slices.Equal(s.calls, want) {
			t.Errorf("got the calls %v, want %v", s.calls, want)
		}
		synctest.Wait()
		if !e.stored(s) {
			t.Error("the content is not stored, want it stored")
		}
	})
}

// TestFillResumesFromStart checks that a fill resumes from a source that ignores ranges
// and sends the bytes that the cache already has slowly.
func TestFillResumesFromStart(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(21, 3_000_000))
		s.answer = func(_ context.Context, n int, offset int64) (*fill.Body, error) {
			if n == 0 {
				return s.body(0, cut(s.from(0), 2_900_000)), nil
			}
			return s.body(0, &bursts{r: s.from(0), size: 200_000, pause: 10 * time.Second}), nil
		}
		e.whole(s)
		if n := s.fetches(); n != 2 {
			t.Errorf("got %d fetches, want 2", n)
		}
	})
}

// TestFillWhenSourceNeverAnswersAgain checks that a fill fails after six fetches when the
// source breaks off and refuses every later request.
func TestFillWhenSourceNeverAnswersAgain(t *testing.T) {
	for _, sent := range []int64{100_000, 2 << 20} {
		bubble(t, func(t *testing.T, e *env) {
			s := e.source(random(22, 3<<20))
			s.answer = func(_ context.Context, n int, _ int64) (*fill.Body, error) {
				if n == 0 {
					return s.body(0, cut(s.from(0), sent)), nil
				}
				return nil, errSource
			}
			begin := time.Now()
			e.broken(e.mustGet(s), s, errSource)
			if took := time.Since(begin); s.fetches() != 6 || took > 10*time.Second {
				t.Errorf("the fill failed after %d fetches and %v, want 6 fetches and at most 10s", s.fetches(), took)
			}
			synctest.Wait()
			if got := <-e.ended; got.size != sent || !errors.Is(got.err, errSource) || e.stored(s) {
				t.Errorf("the hook got %+v (stored: %v), want size %d, the error %v and nothing stored", got, e.stored(s), sent, errSource)
			}
			s.answer = nil
			e.whole(s)
		})
	}
}

// TestFillProgressRenewsTries checks that a fill completes from a source that breaks off
// after each mebibyte.
func TestFillProgressRenewsTries(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(23, 12<<20))
		s.answer = func(_ context.Context, _ int, offset int64) (*fill.Body, error) {
			return s.body(offset, cut(s.from(offset), 1<<20)), nil
		}
		e.whole(s)
	})
}

// TestFillResumesIdleSource checks that a fill asks the source again after 30 seconds
// without a byte.
func TestFillResumesIdleSource(t *testing.T) {
	for name, stall := range map[string]func(s *source, ctx context.Context) (*fill.Body, error){
		"in the middle": func(s *source, ctx context.Context) (*fill.Body, error) {
			return s.body(0, io.MultiReader(io.LimitReader(s.from(0), 1000), stalled(ctx))), nil
		},
		"after the last byte": func(s *source, ctx context.Context) (*fill.Body, error) {
			return s.body(0, io.MultiReader(s.from(0), stalled(ctx))), nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, e *env) {
				s := e.source(random(24, 200_000))
				s.answer = func(ctx context.Context, n int, offset int64) (*fill.Body, error) {
					if n == 0 {
						return stall(s, ctx)
					}
					return s.body(offset, s.from(offset)), nil
				}
				begin := time.Now()
				e.whole(s)
				if took := time.Since(begin); took < 30*time.Second || took > 31*time.Second {
					t.Errorf("the fill took %v, want 30s to 31s", took)
				}
			})
		})
	}
}

// TestFillEndsWhenSourceStaysIdle checks that a fill over one connection or several fails
// after a minute without a byte, however often it asks the source again in that time.
func TestFillEndsWhenSourceStaysIdle(t *testing.T) {
	for _, connections := range []int{1, 4} {
		ranges(t, func(t *testing.T, e *env, s *source) {
			s.connections = connections
			s.ranged = func(ctx context.Context, n int, offset, length int64) (*fill.Body, error) {
				if n == 0 {
					return s.span(offset, length, io.MultiReader(io.LimitReader(s.from(0), 1000), stalled(ctx))), nil
				}
				return s.span(offset, length, stalled(ctx)), nil
			}
			begin := time.Now()
			e.broken(e.mustGet(s), s, context.DeadlineExceeded)
			if took := time.Since(begin); took != time.Minute {
				t.Errorf("with %d connections the fill failed after %v, want 1m0s", connections, took)
			}
		})
	}
}

// TestFillEndsWhenSourceHangs checks that a fill fails after a minute, without a second
// fetch, when the source does not answer.
func TestFillEndsWhenSourceHangs(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(25, 1000))
		s.answer = func(ctx context.Context, _ int, _ int64) (*fill.Body, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		begin := time.Now()
		_, _, err := e.get(s)
		// The waiting client gets a timeout, not a cancellation.
		if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			t.Errorf("Get: got the error %v, want %v", err, context.DeadlineExceeded)
		}
		if took := time.Since(begin); took != time.Minute || s.fetches() != 1 {
			t.Errorf("Get took %v and %d fetches, want 1m0s and 1 fetch", took, s.fetches())
		}
	})
}

// TestFillAcceptsSlowSource checks that a source whose pauses stay below the time limits
// is fetched from once.
func TestFillAcceptsSlowSource(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(26, 10_000_000))
		s.answer = func(_ context.Context, _ int, offset int64) (*fill.Body, error) {
			time.Sleep(30 * time.Second)
			return s.body(offset, &bursts{r: s.from(offset), size: 600_000, pause: 29 * time.Second}), nil
		}
		if e.whole(s); s.fetches() != 1 {
			t.Errorf("got %d fetches, want 1", s.fetches())
		}
	})
}

// bursts reads r in pieces of size bytes and sleeps before each piece.
type bursts struct {
	r     io.Reader
	size  int
	pause time.Duration
	left  int
}

func (b *bursts) Read(p []byte) (int, error) {
	if b.left == 0 {
		time.Sleep(b.pause)
		b.left = b.size
	}
	n, err := b.r.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}

// TestFillWhenSourceChanges checks that a fill fails when the source resumes with an
// answer that does not fit the first one.
func TestFillWhenSourceChanges(t *testing.T) {
	for name, change := range map[string]func(*fill.Body){
		"size":       func(b *fill.Body) { b.Size++ },
		"smaller":    func(b *fill.Body) { b.Size = 10 },
		"too far":    func(b *fill.Body) { b.Offset++ },
		"no content": func(b *fill.Body) { b.Offset = 0; b.ReadCloser = http.NoBody },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, e *env) {
				s := e.source(random(27, 10_000))
				s.answer = func(_ context.Context, n int, offset int64) (*fill.Body, error) {
					if n == 0 {
						return s.body(0, cut(s.from(0), 5000)), nil
					}
					body := &fill.Body{ReadCloser: io.NopCloser(s.from(offset)), Size: 10_000, Offset: offset}
					change(body)
					return body, nil
				}
				r := e.mustGet(s)
				if got, err := io.ReadAll(r); err == nil || len(got) > 5000 {
					t.Errorf("read %d bytes and got the error %v, want at most 5000 bytes and an error", len(got), err)
				}
				if n := s.fetches(); n != 6 {
					t.Errorf("got %d fetches, want 6", n)
				}
			})
		})
	}
}
