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

// call holds the arguments of a call of a source's fetch.
type call struct {
	offset int64
	etag   string
}

// source is a fake source of content that records the calls of its fetch.
type source struct {
	content []byte
	digest  digest.Digest
	// answer answers the n-th call of fetch, counted from 0. A source without faults has
	// neither answer nor ranged.
	answer func(ctx context.Context, n int, offset int64) (*fill.Body, error)
	// ranged takes the place of answer in tests that need the requested length as well.
	ranged func(ctx context.Context, n int, offset, length int64) (*fill.Body, error)
	// connections is the number of ranges that may be fetched at once.
	connections int
	limits      fill.SourceLimits

	mu    sync.Mutex
	calls []call
	asked []int64 // the lengths of the calls
	open  int     // number of open bodies
	most  int     // largest number of bodies that were open at once
	sent  int64   // number of bytes sent, if the test counts them
}

// source returns a new source of content.
func (e *env) source(content []byte) *source {
	s := &source{content: content, digest: digest.FromBytes(content)}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.sources = append(e.sources, s)
	return s
}

// request returns a request of a scope for the source's content.
func (s *source) request(scope string) fill.Request {
	return fill.Request{Digest: s.digest, Size: -1, Scope: scope, Source: s.limits, Fetch: s.fetch, Connections: s.connections}
}

// fetch records a call and answers it. It is the Fetch function of the source's requests.
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

// fetches returns the number of calls of fetch.
func (s *source) fetches() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.calls)
}

// from returns a reader of the content from offset on.
func (s *source) from(offset int64) io.Reader { return bytes.NewReader(s.content[offset:]) }

// body returns a body that reads r, begins at offset and announces the size of the content.
func (s *source) body(offset int64, r io.Reader) *fill.Body {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.open++
	s.most = max(s.most, s.open)
	return &fill.Body{ReadCloser: &sourceBody{r, s}, Size: int64(len(s.content)), Offset: offset, ETag: `"v1"`}
}

// span returns a body of the requested range, whose bytes it reads from r.
func (s *source) span(offset, length int64, r io.Reader) *fill.Body {
	body := s.body(offset, r)
	if length >= 0 && body.Size > 0 {
		body.End = min(offset+length, body.Size)
		body.ReadCloser = &sourceBody{io.LimitReader(r, body.End-offset), s}
	}
	return body
}

// sourceBody is a body that tells its source when it is closed.
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

// readFunc is an io.Reader made of a Read function.
type readFunc func(p []byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }

// cut returns a reader of the first n bytes of r that then fails with errSource.
func cut(r io.Reader, n int64) io.Reader {
	return io.MultiReader(io.LimitReader(r, n), iotest.ErrReader(errSource))
}

// polite returns a reader of r that fails when ctx has ended.
func polite(ctx context.Context, r io.Reader) io.Reader {
	return readFunc(func(p []byte) (int, error) {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		return r.Read(p)
	})
}

// stalled returns a reader that blocks until ctx ends and then fails.
func stalled(ctx context.Context) io.Reader {
	return readFunc(func([]byte) (int, error) {
		<-ctx.Done()
		return 0, ctx.Err()
	})
}

// gated returns a reader of r that blocks until the gate is open or ctx ends.
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

// Paced returns a reader of r that reads at most piece bytes at a time, after a pause.
func Paced(r io.Reader, piece int, pause time.Duration) io.Reader {
	return readFunc(func(p []byte) (int, error) {
		time.Sleep(pause)
		return r.Read(p[:min(len(p), piece)])
	})
}
