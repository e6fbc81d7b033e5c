package blobcache_test

import (
	"bytes"
	"context"
	"io"
	"testing"
	"testing/synctest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// TestReaderParts checks that a client may not read ranges of content that came over plain
// HTTP before the digest is verified, but may read the content from its start.
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
			t.Error("Parts before the digest is verified: got true, want false")
		}
		if _, err := io.ReadFull(r, make([]byte, 50_000)); err != nil {
			t.Errorf("reading from the start: got the error %v, want none", err)
		}
		close(gate)
		synctest.Wait()
		if !r.Parts() {
			t.Error("Parts after the digest is verified: got false, want true")
		}
		e.same(r, s.content[50_000:])
	})
}

// TestReaderPartsTurnPlain checks that a reader of ranges fails when the fill resumes over
// plain HTTP.
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
			t.Fatal("Parts over HTTPS: got false, want true")
		}
		if _, err := r.Seek(40_000, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(io.LimitReader(r, 20_000))
		if err == nil || len(got) > 10_000 || !bytes.Equal(got, s.content[40_000:40_000+len(got)]) {
			t.Errorf("read %d bytes and got the error %v, want at most 10000 bytes of the content and an error", len(got), err)
		}
	})
}

// TestReaderPartsOncePlain checks that a client may not read ranges of content that began over
// plain HTTP, although the source resumes it over HTTPS, with and without a spool.
func TestReaderPartsOncePlain(t *testing.T) {
	for _, stores := range []bool{true, false} {
		bubble(t, func(t *testing.T, e *env) {
			if !stores {
				e.store.refuseSpools()
			}
			s, gate := e.source(random(10, 90_000)), make(chan struct{})
			s.answer = func(ctx context.Context, n int, offset int64) (*fill.Body, error) {
				if n == 0 {
					body := s.body(offset, cut(s.from(offset), 50_000))
					body.Plain = true
					return body, nil
				}
				return s.body(offset, io.MultiReader(io.LimitReader(s.from(offset), 20_000), gated(ctx, gate, s.from(offset+20_000)))), nil
			}
			r := e.mustGet(s)
			e.same(io.LimitReader(r, 60_000), s.content[:60_000])
			if r.Parts() {
				t.Errorf("stores %t: Parts after bytes over plain HTTP: got true, want false", stores)
			}
			close(gate)
			e.same(r, s.content[60_000:])
		})
	}
}
