//go:build unix

package blobcache_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// TestFollowerWhenSpoolFailsUnderRange checks what a reader of a range gets when the spool
// fails under it and the source then sends the right content: the rest of the content if
// all bytes it has got were right, and an error if one of them was wrong.
func TestFollowerWhenSpoolFailsUnderRange(t *testing.T) {
	for name, wrong := range map[string]bool{"wrong": true, "right": false} {
		t.Run(name, func(t *testing.T) {
			ranges(t, func(t *testing.T, e *env, s *source) {
				broken := make(chan struct{})
				s.ranged = func(ctx context.Context, call int, offset, length int64) (*fill.Body, error) {
					switch {
					case call == 0: // the first range gets no bytes before the spool is broken
						return s.span(offset, length, gated(ctx, broken, s.from(offset))), nil
					case offset <= 450_000 && offset > 0 && wrong:
						content := flipped(s.content[offset:], int(500_000-offset))
						return s.span(offset, length, bytes.NewReader(content)), nil
					}
					return s.span(offset, length, s.from(offset)), nil
				}
				r := e.mustGet(s)
				if _, err := r.Seek(450_000, io.SeekStart); err != nil {
					t.Fatal(err)
				}
				if _, err := io.CopyN(io.Discard, r, 100_000); err != nil {
					t.Fatal(err)
				}
				readOnly(t, e.store.spool.Load())
				close(broken)
				if !wrong {
					e.same(r, s.content[550_000:])
					return
				}
				if n, err := io.Copy(io.Discard, r); !errors.Is(err, fill.ErrDigestMismatch) {
					t.Errorf("after %d more bytes: got the error %v, want %v", n, err, fill.ErrDigestMismatch)
				}
				if n, err := io.Copy(io.Discard, r); n != 0 || !errors.Is(err, fill.ErrDigestMismatch) {
					t.Errorf("read after the error: got %d bytes and the error %v, want 0 bytes and %v", n, err, fill.ErrDigestMismatch)
				}
				_ = r.Close()
			})
		})
	}
}
