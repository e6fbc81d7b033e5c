package blobcache_test

import (
	"bytes"
	"context"
	"io"
	"testing"
	"testing/synctest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// TestReaderParts: parts of what came over plain HTTP are not handed out before the
// digest is known, and the whole only with its last byte held back.
func TestReaderParts(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s, gate := e.source(random(8, 90_000)), make(chan struct{})
		s.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
			body := s.body(offset, io.MultiReader(io.LimitReader(s.from(offset), 50_000), gated(ctx, gate, s.from(50_000))))
			body.Plain = true
			return body, nil
		}
		r := e.mustGet(s)
		if r.Parts() {
			t.Error("parts may be read of what anybody may have written")
		}
		if _, err := io.ReadFull(r, make([]byte, 50_000)); err != nil {
			t.Errorf("the whole cannot be read: %v", err)
		}
		close(gate)
		synctest.Wait()
		if !r.Parts() {
			t.Error("parts may not be read although the digest is known")
		}
		e.same(r, s.content[50_000:])
	})
}

// TestReaderPartsTurnPlain: a reader of parts breaks off when the source is resumed
// over plain HTTP.
func TestReaderPartsTurnPlain(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(9, 90_000))
		s.answer = func(ctx context.Context, n int, offset int64) (*fill.Body, error) {
			if n == 0 {
				return s.body(offset, cut(s.from(offset), 50_000)), nil
			}
			body := s.body(offset, io.MultiReader(io.LimitReader(s.from(offset), 20_000), stalled(ctx)))
			body.Plain = true
			return body, nil
		}
		r := e.mustGet(s)
		if !r.Parts() {
			t.Fatal("parts may not be read over HTTPS")
		}
		if _, err := r.Seek(40_000, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(io.LimitReader(r, 20_000))
		if err == nil || len(got) > 10_000 || !bytes.Equal(got, s.content[40_000:40_000+len(got)]) {
			t.Errorf("read %d bytes, %v; want at most 10000 and a failure", len(got), err)
		}
	})
}
