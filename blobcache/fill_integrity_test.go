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

// flipped returns a copy of content with one bit of the byte at offset at inverted.
func flipped(content []byte, at int) []byte {
	content = bytes.Clone(content)
	content[at] ^= 1
	return content
}

// lies maps a description to a body with wrong bytes or a wrong size that a source may send.
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

// TestFillRejectsCorruptSource checks that no reader gets a corrupt body whole, and that the next
// request fetches the content again.
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
							t.Errorf("got %d bytes and the error %v, want fewer than %d bytes and fill.ErrDigestMismatch", len(got), err, promised)
						}
					})
				}
				all.Wait()
				// The next request gets the right content.
				if origin := e.whole(s); origin != fill.Started || s.fetches() != 2 {
					t.Errorf("got origin %v after %d fetches, want %v after 2", origin, s.fetches(), fill.Started)
				}
				synctest.Wait()
				if got := <-e.ended; !errors.Is(got.err, fill.ErrDigestMismatch) || !e.stored(s) {
					t.Errorf("hook: got %+v and stored: %v, want fill.ErrDigestMismatch and stored: true", got, e.stored(s))
				}
			})
		})
	}
}

// TestFillNeverStoresCorruptContent checks that corrupt content is not stored.
func TestFillNeverStoresCorruptContent(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(31, 1000))
		s.answer = func(context.Context, int, int64) (*fill.Body, error) {
			return s.body(0, bytes.NewReader(flipped(s.content, 500))), nil
		}
		e.fails(s, fill.ErrDigestMismatch)
		synctest.Wait()
		if e.stored(s) {
			t.Error("the corrupt content was stored")
		}
		if _, ok := e.cache.Has(t.Context(), s.digest); ok {
			t.Error("Has of corrupt content: got true, want false")
		}
	})
}

// TestFillOfEmptyAnswerFails checks that a fill fails when the source sends no bytes for content
// that is not empty: the cache has no last byte to withhold from its readers.
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

// TestFillRejectsExcessBytes checks that a fill fails when the source sends more bytes than the
// content has, in a separate read.
func TestFillRejectsExcessBytes(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(32, 1000))
		s.answer = func(context.Context, int, int64) (*fill.Body, error) {
			return s.body(0, io.MultiReader(s.from(0), bytes.NewReader([]byte("more")))), nil
		}
		e.fails(s, fill.ErrDigestMismatch)
		if n := s.fetches(); n != 1 {
			t.Errorf("got %d fetches, want 1", n)
		}
	})
}

// TestFillIgnoresErrorAfterWholeContent checks that a fill succeeds when the connection breaks
// after the source has sent the whole content.
func TestFillIgnoresErrorAfterWholeContent(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(33, 1000))
		s.answer = func(context.Context, int, int64) (*fill.Body, error) {
			return s.body(0, cut(s.from(0), 1000)), nil
		}
		if e.whole(s); s.fetches() != 1 {
			t.Errorf("got %d fetches, want 1", s.fetches())
		}
	})
}
