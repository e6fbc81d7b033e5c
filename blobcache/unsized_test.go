package blobcache_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// withoutSize makes a source announce no size, and send the content at once.
func (s *source) withoutSize() {
	s.answer = func(_ context.Context, _ int, offset int64) (*fill.Body, error) {
		body := s.body(offset, s.from(offset))
		body.Size = -1
		return body, nil
	}
}

// unsized makes a source announce no size, and send 20,000 bytes at once and then each
// second.
func (s *source) unsized() {
	s.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
		const first = 20_000
		from := s.content[offset:]
		now := from[:min(first, len(from))]
		body := s.body(offset, io.MultiReader(bytes.NewReader(now), Paced(polite(ctx, bytes.NewReader(from[len(now):])), first, time.Second)))
		body.Size = -1
		return body, nil
	}
}

// TestFillOfUnknownSizeFlows checks that content whose size nothing tells is read while it
// comes, except for its last byte, and that a wrong digest breaks the transfer off.
func TestFillOfUnknownSizeFlows(t *testing.T) {
	for _, digestMatches := range []bool{true, false} {
		bubble(t, func(t *testing.T, e *env) {
			s, begin := e.source(random(1, 200_000)), time.Now()
			s.unsized()
			if !digestMatches {
				s.digest = s.digest.Algorithm().FromString("something else")
			}
			r := e.mustGet(s)
			if took := time.Since(begin); r.Size() != -1 || took > time.Second/2 {
				t.Fatalf("got a size of %d after %v, want -1 at once", r.Size(), took)
			}
			if _, err := io.ReadFull(r, make([]byte, 19_999)); err != nil || time.Since(begin) > time.Second/2 {
				t.Fatalf("the first bytes: got the error %v after %v, want them at once", err, time.Since(begin))
			}
			if digestMatches {
				e.same(r, s.content[19_999:])
			} else {
				e.broken(r, s, fill.ErrDigestMismatch)
			}
			synctest.Wait()
			if e.stored(s) != digestMatches {
				t.Errorf("got the content stored: %t, want %t", !digestMatches, digestMatches)
			}
		})
	}
}

// TestFillOfUnknownSizeSilent checks that a source that answers without a size and sends
// nothing is an error of Get.
func TestFillOfUnknownSizeSilent(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(1, 200_000))
		s.answer = func(ctx context.Context, _ int, _ int64) (*fill.Body, error) {
			body := s.body(0, stalled(ctx))
			body.Size = -1
			return body, nil
		}
		e.refused(s, context.DeadlineExceeded)
	})
}

// TestFillSizeHint checks that the size that a request expects is announced before the
// first byte if the source tells none, and only then, and that content of another size is
// a broken transfer and is stored all the same.
func TestFillSizeHint(t *testing.T) {
	const size = 200_000
	for name, test := range map[string]struct {
		hint  int64
		sized bool // the source announces the size
		want  int64
		err   error
	}{
		"right":                   {size, false, size, nil},
		"too small":               {size - 1, false, size - 1, fill.ErrSizeMismatch},
		"much too small":          {1, false, 1, fill.ErrSizeMismatch},
		"too large":               {size + 1, false, size + 1, fill.ErrSizeMismatch},
		"the source's size wins":  {size - 1, true, size, nil},
		"the source's size wins2": {size + 1, true, size, nil},
	} {
		for _, stores := range []bool{true, false} {
			t.Run(name, func(t *testing.T) {
				bubble(t, func(t *testing.T, e *env) {
					s, gate := e.source(random(1, size)), make(chan struct{})
					s.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
						body := s.body(offset, gated(ctx, gate, s.from(offset)))
						if !test.sized {
							body.Size = -1
						}
						return body, nil
					}
					req := s.request("a")
					req.SizeHint = test.hint
					if !stores {
						e.store.refuseSpools()
					}
					r, _, err := e.cache.Get(t.Context(), req)
					if err != nil {
						t.Fatal(err)
					}
					defer r.Close()
					if r.Size() != test.want {
						t.Errorf("got a size of %d, want %d", r.Size(), test.want)
					}
					time.AfterFunc(time.Second, func() { close(gate) })
					got, err := io.ReadAll(r)
					switch {
					case test.err == nil && (err != nil || !bytes.Equal(got, s.content)):
						t.Errorf("got %d bytes and the error %v, want all %d", len(got), err, size)
					case test.err != nil && (err == nil || int64(len(got)) >= test.want || stores && !errors.Is(err, test.err)):
						t.Errorf("got %d bytes and the error %v, want fewer than %d and %v", len(got), err, test.want, test.err)
					}
					time.Sleep(time.Minute)
					if e.stored(s) != stores {
						t.Errorf("got the content stored: %t, want %t", !stores, stores)
					}
				})
			})
		}
	}
}

// TestReaderAwaitByte checks that AwaitByte waits for the byte at the reader's position,
// which the next read returns, and returns the error of a source that sends no byte.
func TestReaderAwaitByte(t *testing.T) {
	for _, stores := range []bool{true, false} {
		bubble(t, func(t *testing.T, e *env) {
			if !stores {
				e.store.refuseSpools()
			}
			s := e.source(random(1, 200_000))
			s.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
				return s.body(offset, Paced(polite(ctx, s.from(offset)), 1000, time.Second)), nil
			}
			r, begin := e.mustGet(s), time.Now()
			for _, at := range []int64{0, 10_000, 199_999, 200_000} {
				if _, err := r.Seek(at, io.SeekStart); err != nil {
					t.Fatal(err)
				}
				if err := r.AwaitByte(); err != nil {
					t.Fatal(err)
				}
				if took, want := time.Since(begin), time.Duration(1+min(at, 199_999)/1000)*time.Second; took < want || took > want+2*time.Second {
					t.Errorf("byte %d: waited until %v, want about %v", at, took, want)
				}
				e.same(io.LimitReader(r, 1), s.content[at:min(at+1, 200_000)])
			}
			if s.fetches() != 1 {
				t.Errorf("got %d fetches, want 1", s.fetches())
			}

			broken := e.source(random(2, 200_000))
			broken.answer = func(context.Context, int, int64) (*fill.Body, error) {
				return broken.body(0, cut(broken.from(0), 0)), nil
			}
			r = e.mustGet(broken)
			if err := r.AwaitByte(); !errors.Is(err, errSource) || !errors.Is(r.Err(), errSource) {
				t.Errorf("a source that sends no byte: got the error %v, want %v", err, errSource)
			}
		})
	}
}

// TestFillSizeHintOfAnotherScope checks that a wrong hint does not break the transfer of
// another request that shares the fill.
func TestFillSizeHintOfAnotherScope(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(1, 200_000))
		s.unsized()
		wrong := s.request("a")
		wrong.SizeHint = 100
		first, _, err := e.cache.Get(t.Context(), wrong)
		if err != nil {
			t.Fatal(err)
		}
		defer first.Close()
		right := s.request("b")
		right.SizeHint = 200_000
		second, origin, err := e.cache.Get(t.Context(), right)
		if err != nil || origin != fill.Joined || second.Size() != 200_000 {
			t.Fatalf("got the origin %v, %v and a size of %d, want %v and %d", origin, err, second.Size(), fill.Joined, 200_000)
		}
		defer second.Close()
		e.same(second, s.content)
		e.broken(first, s, fill.ErrSizeMismatch)
		if s.fetches() != 1 {
			t.Errorf("got %d fetches, want 1", s.fetches())
		}
	})
}
