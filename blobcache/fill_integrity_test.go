package blobcache_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// flipped is content with one other bit.
func flipped(content []byte, at int) []byte {
	content = bytes.Clone(content)
	content[at] ^= 1
	return content
}

// lies are what a source may send in place of its content.
var lies = map[string]func(s *source) *fill.Body{
	"first byte": func(s *source) *fill.Body { return s.body(0, bytes.NewReader(flipped(s.content, 0))) },
	"last byte": func(s *source) *fill.Body {
		return s.body(0, bytes.NewReader(flipped(s.content, len(s.content)-1)))
	},
	"more than its size": func(s *source) *fill.Body {
		return s.body(0, bytes.NewReader(append(flipped(s.content, 7), "more"...)))
	},
	"all but more": func(s *source) *fill.Body {
		return s.body(0, bytes.NewReader(append(bytes.Clone(s.content), "more"...)))
	},
	"less": func(s *source) *fill.Body {
		body := s.body(0, bytes.NewReader(s.content[:1000]))
		body.Size = 1000
		return body
	},
	"another size": func(s *source) *fill.Body {
		body := s.body(0, s.from(0))
		body.Size = 1000
		return body
	},
}

func TestFillRejectsCorruptSource(t *testing.T) {
	for name, lie := range lies {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, e *env) {
				s, asked := e.source(random(30, 400_000)), make(chan struct{})
				s.answer = func(ctx context.Context, n int, offset int64) (*fill.Body, error) {
					if n == 0 {
						body := lie(s)
						body.ReadCloser = &sourceBody{gated(ctx, asked, body.ReadCloser), s}
						return body, nil
					}
					return s.body(offset, s.from(offset)), nil
				}
				r, again := e.mustGet(s), e.mustGet(s)
				promised := r.Size()
				close(asked)
				var all sync.WaitGroup
				for _, r := range []*blobcache.Reader{r, again} {
					all.Go(func() {
						got, err := io.ReadAll(r)
						if !errors.Is(err, fill.ErrDigestMismatch) || int64(len(got)) >= promised {
							t.Errorf("read %d of %d bytes, %v", len(got), promised, err)
						}
					})
				}
				all.Wait()
				// Who has seen it break asks anew and is answered right.
				if origin := e.whole(s); origin != fill.Started || s.fetches() != 2 {
					t.Errorf("origin %v after %d fetches", origin, s.fetches())
				}
				synctest.Wait()
				if got := <-e.ended; !errors.Is(got.err, fill.ErrDigestMismatch) || !e.stored(s) {
					t.Errorf("hook: %+v", got)
				}
			})
		})
	}
}

// TestFillNeverStoresCorruptContent asks once only.
func TestFillNeverStoresCorruptContent(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(31, 1000))
		s.answer = func(context.Context, int, int64) (*fill.Body, error) {
			return s.body(0, bytes.NewReader(flipped(s.content, 500))), nil
		}
		e.fails(s, fill.ErrDigestMismatch)
		synctest.Wait()
		if e.stored(s) {
			t.Error("stored")
		}
		if _, ok := e.cache.Has(t.Context(), s.digest); ok {
			t.Error("known")
		}
	})
}

// TestFillOfEmptyAnswerFails is that of a source that has lost the content: there would
// be no last byte to hold back.
func TestFillOfEmptyAnswerFails(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s, end := e.source(nil), make(chan struct{})
		s.digest = digest.FromString("not empty")
		s.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
			return s.body(offset, gated(ctx, end, s.from(0))), nil
		}
		var get sync.WaitGroup
		get.Go(func() { e.refused(s, fill.ErrDigestMismatch) })
		synctest.Wait()
		close(end)
		get.Wait()
	})
}

// TestFillRejectsExcessBytes has a source whose bytes go on at a read of their own.
func TestFillRejectsExcessBytes(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(32, 1000))
		s.answer = func(context.Context, int, int64) (*fill.Body, error) {
			return s.body(0, io.MultiReader(s.from(0), bytes.NewReader([]byte("more")))), nil
		}
		e.fails(s, fill.ErrDigestMismatch)
		if n := s.fetches(); n != 1 {
			t.Errorf("%d fetches", n)
		}
	})
}

// TestFillIgnoresErrorAfterWholeContent has a source that has sent all when its line breaks.
func TestFillIgnoresErrorAfterWholeContent(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(33, 1000))
		s.answer = func(context.Context, int, int64) (*fill.Body, error) {
			return s.body(0, cut(s.from(0), 1000)), nil
		}
		if e.whole(s); s.fetches() != 1 {
			t.Errorf("%d fetches", s.fetches())
		}
	})
}
