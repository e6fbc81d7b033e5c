package blobcache_test

import (
	"cmp"
	"context"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

const rangedSize = 4_000_000

// ranges runs a test with a source that allows four connections at once.
func ranges(t *testing.T, test func(t *testing.T, e *env, s *source)) {
	t.Helper()
	bubble(t, func(t *testing.T, e *env) {
		e.cache.SetSpans(400_000, 100_000, 800_000)
		s := e.source(random(200, rangedSize))
		s.connections = 4
		test(t, e, s)
	})
}

// slow answers with a range at a megabyte a second and counts the bytes sent.
func (s *source) slow(ctx context.Context, offset, length int64) *fill.Body {
	return s.span(offset, length, polite(ctx, s.counted(Paced(s.from(offset), 20_000, 20*time.Millisecond))))
}

// counted adds the bytes that are read from r to s.sent.
func (s *source) counted(r io.Reader) io.Reader {
	return readFunc(func(p []byte) (int, error) {
		n, err := r.Read(p)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sent += int64(n)
		return n, err
	})
}

// once fails the test unless the fetches asked for each byte exactly once.
func (s *source) once(t *testing.T) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	type span struct{ from, to int64 }
	var spans []span
	for i, call := range s.calls {
		spans = append(spans, span{call.offset, min(call.offset+s.asked[i], rangedSize)})
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	var end int64
	for _, span := range spans {
		if span.from != end {
			t.Fatalf("the fetches asked for %v, want each byte of %d once", spans, rangedSize)
		}
		end = span.to
	}
	if end != rangedSize {
		t.Errorf("the fetches asked for %v, want each byte of %d once", spans, rangedSize)
	}
}

// TestFillFetchesRangesAtOnce checks that a fill over several connections is faster than
// over one, delivers the bytes in order, asks for each byte once and sends the validator
// of the first answer.
func TestFillFetchesRangesAtOnce(t *testing.T) {
	ranges(t, func(t *testing.T, e *env, s *source) {
		s.ranged = func(ctx context.Context, _ int, offset, length int64) (*fill.Body, error) {
			return s.slow(ctx, offset, length), nil
		}
		begin := time.Now()
		r := e.mustGet(s)
		if _, err := io.ReadFull(r, make([]byte, 20_000)); err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took > 20*time.Millisecond {
			t.Errorf("the first bytes took %v, want at most 20ms", took)
		}
		e.same(r, s.content[20_000:])
		if took := time.Since(begin); took > 1250*time.Millisecond {
			t.Errorf("the content took %v, want at most 1.25s; one connection takes 4s", took)
		}
		s.once(t)
		for i, call := range s.calls {
			if (call.etag == "") != (i == 0) {
				t.Errorf("call %d has the validator %q, want none on the first call only", i, call.etag)
			}
		}
		synctest.Wait()
		if !e.stored(s) {
			t.Error("the content is not stored, want it stored")
		}
		if got := <-e.ended; got != (ended{s.digest, rangedSize, nil}) {
			t.Errorf("the hook got %+v, want %+v", got, ended{s.digest, rangedSize, nil})
		}
	})
}

// TestFillRangesOfFastSource checks that a fill uses one connection to a fast source and
// several as soon as the source becomes slow.
func TestFillRangesOfFastSource(t *testing.T) {
	content := random(203, 64<<20)
	for name, test := range map[string]struct {
		pause, later time.Duration // for each 128 KiB, of the first two ranges and of later ones
		most         int           // connections at once
	}{
		"320 MB/s":             {400 * time.Microsecond, 400 * time.Microsecond, 1},
		"80 MB/s":              {1600 * time.Microsecond, 1600 * time.Microsecond, 4},
		"320 and then 80 MB/s": {400 * time.Microsecond, 1600 * time.Microsecond, 4},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, e *env) {
				e.cache.SetSpans(16<<20, 4<<20, 32<<20)
				s := e.source(content)
				s.connections = 4
				s.ranged = func(_ context.Context, n int, offset, length int64) (*fill.Body, error) {
					pause := test.pause
					if n > 1 {
						pause = test.later
					}
					return s.span(offset, length, Paced(s.from(offset), 128<<10, pause)), nil
				}
				if e.whole(s); s.most != test.most {
					t.Errorf("got %d connections at once, want %d", s.most, test.most)
				}
			})
		})
	}
}

// TestFillRangesOfSmallContent checks that content of at most one range takes one fetch.
func TestFillRangesOfSmallContent(t *testing.T) {
	for _, size := range []int{0, 1, 399_999, 400_000} {
		bubble(t, func(t *testing.T, e *env) {
			e.cache.SetSpans(400_000, 100_000, 800_000)
			s := e.source(random(201, size))
			s.connections = 4
			if e.whole(s); s.fetches() != 1 || s.asked[0] != 400_000 {
				t.Errorf("size %d: the fetches asked for %v bytes, want one fetch of 400000", size, s.asked)
			}
		})
	}
}

// TestFillRangesJustOneMore checks that content of one range and a byte takes two fetches.
func TestFillRangesJustOneMore(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		e.cache.SetSpans(400_000, 100_000, 800_000)
		s := e.source(random(202, 400_001))
		s.connections = 4
		if e.whole(s); !slices.Equal(s.asked, []int64{400_000, 1}) {
			t.Errorf("the fetches asked for %v bytes, want [400000 1]", s.asked)
		}
	})
}

// TestFillFetchesRangeThatReaderWaitsFor checks that a client that reads the end of the
// content does not wait for all bytes before it, and that a client that reads bytes of a
// range already fetched does not wait either.
func TestFillFetchesRangeThatReaderWaitsFor(t *testing.T) {
	ranges(t, func(t *testing.T, e *env, s *source) {
		s.ranged = func(ctx context.Context, _ int, offset, length int64) (*fill.Body, error) {
			return s.slow(ctx, offset, length), nil
		}
		var all sync.WaitGroup
		all.Go(func() { e.whole(s) })
		synctest.Wait()
		for _, at := range []int64{700_000, 3_500_000} {
			all.Go(func() {
				begin := time.Now()
				r := e.mustGet(s)
				if _, err := r.Seek(at, io.SeekStart); err != nil {
					t.Error(err)
				}
				e.same(io.LimitReader(r, 50_000), s.content[at:at+50_000])
				if took := time.Since(begin); took > 600*time.Millisecond {
					t.Errorf("reading at byte %d took %v, want at most 600ms", at, took)
				}
			})
		}
		all.Wait()
		s.once(t)
	})
}

// TestFillHoldsBackLastByteOfRanges checks that the last byte is held back until the
// digest is verified, even if its range arrives long before the others.
func TestFillHoldsBackLastByteOfRanges(t *testing.T) {
	ranges(t, func(t *testing.T, e *env, s *source) {
		gate := make(chan struct{})
		s.ranged = func(ctx context.Context, n int, offset, length int64) (*fill.Body, error) {
			if n == 0 {
				return s.span(offset, length, io.MultiReader(io.LimitReader(s.from(0), 1000), gated(ctx, gate, s.from(1000)))), nil
			}
			return s.span(offset, length, s.from(offset)), nil
		}
		r := e.mustGet(s)
		if _, err := r.Seek(-1000, io.SeekEnd); err != nil {
			t.Fatal(err)
		}
		e.same(io.LimitReader(r, 999), s.content[rangedSize-1000:rangedSize-1])
		e.lastHeldBack(r, s, gate)
	})
}
