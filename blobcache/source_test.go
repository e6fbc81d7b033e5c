package blobcache_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing/iotest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

var errSource = errors.New("the source is in trouble")

type call struct {
	offset int64
	etag   string
}

// source is where content comes from, and what it was asked.
type source struct {
	content []byte
	digest  digest.Digest
	// answer is to the n-th call, from 0 on; nil for a source without faults.
	answer func(ctx context.Context, n int, offset int64) (*fill.Body, error)
	// ranged is answer for those that care how much was asked for.
	ranged func(ctx context.Context, n int, offset, length int64) (*fill.Body, error)
	// connections is how many ranges may be fetched at once.
	connections int
	limits      fill.SourceLimits

	mu    sync.Mutex
	calls []call
	asked []int64 // the lengths of the calls
	open  int     // bodies
	most  int     // of them at once
	sent  int64   // bytes, where they are counted
}

func (e *env) source(content []byte) *source {
	s := &source{content: content, digest: digest.FromBytes(content)}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sources = append(e.sources, s)
	return s
}

func (s *source) request(scope string) fill.Request {
	return fill.Request{Digest: s.digest, Size: -1, Scope: scope, Source: s.limits, Fetch: s.fetch, Connections: s.connections}
}

func (s *source) fetch(ctx context.Context, offset, length int64, etag string) (*fill.Body, error) {
	s.mu.Lock()
	n := len(s.calls)
	s.calls, s.asked = append(s.calls, call{offset, etag}), append(s.asked, length)
	s.mu.Unlock()
	switch {
	case s.ranged != nil:
		return s.ranged(ctx, n, offset, length)
	case s.answer != nil:
		return s.answer(ctx, n, offset)
	}
	return s.span(offset, length, polite(ctx, s.from(offset))), nil
}

func (s *source) fetches() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.calls)
}

func (s *source) from(offset int64) io.Reader { return bytes.NewReader(s.content[offset:]) }

func (s *source) body(offset int64, r io.Reader) *fill.Body {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open++
	s.most = max(s.most, s.open)
	return &fill.Body{ReadCloser: &sourceBody{r, s}, Size: int64(len(s.content)), Offset: offset, ETag: `"v1"`}
}

// span is a body of the range that was asked for.
func (s *source) span(offset, length int64, r io.Reader) *fill.Body {
	body := s.body(offset, r)
	if length >= 0 && body.Size > 0 {
		body.End = min(offset+length, body.Size)
		body.ReadCloser = &sourceBody{io.LimitReader(r, body.End-offset), s}
	}
	return body
}

type sourceBody struct {
	io.Reader
	source *source
}

func (b *sourceBody) Close() error {
	b.source.mu.Lock()
	defer b.source.mu.Unlock()
	b.source.open--
	return nil
}

type readFunc func(p []byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// cut is the first n bytes of r and then a failure.
func cut(r io.Reader, n int64) io.Reader {
	return io.MultiReader(io.LimitReader(r, n), iotest.ErrReader(errSource))
}

// polite is r until ctx ends.
func polite(ctx context.Context, r io.Reader) io.Reader {
	return readFunc(func(p []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		return r.Read(p)
	})
}

// stalled sends nothing until ctx ends.
func stalled(ctx context.Context) io.Reader {
	return readFunc(func([]byte) (int, error) {
		<-ctx.Done()
		return 0, ctx.Err()
	})
}

// gated is r from when the gate is opened.
func gated(ctx context.Context, gate <-chan struct{}, r io.Reader) io.Reader {
	return readFunc(func(p []byte) (int, error) {
		select {
		case <-gate:
			return r.Read(p)
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	})
}

// Paced is r in pieces, with a pause before each.
func Paced(r io.Reader, piece int, pause time.Duration) io.Reader {
	return readFunc(func(p []byte) (int, error) {
		time.Sleep(pause)
		return r.Read(p[:min(len(p), piece)])
	})
}
