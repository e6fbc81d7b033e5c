package blobcache_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// TestWorkerReplacesSlowConnection checks that a fill replaces a connection that is much slower
// than the others and keeps the bytes that it has received. With the slow connection alone, the
// readers would wait for ten minutes.
func TestWorkerReplacesSlowConnection(t *testing.T) {
	ranges(t, func(t *testing.T, e *env, s *source) {
		s.ranged = func(ctx context.Context, n int, offset, length int64) (*fill.Body, error) {
			pause := 10 * time.Millisecond
			if n == 2 {
				pause = time.Second
			}
			return s.span(offset, length, polite(ctx, s.counted(Paced(s.from(offset), 1000, pause)))), nil
		}
		begin := time.Now()
		e.whole(s)
		if took := time.Since(begin); took > 15*time.Second {
			t.Errorf("the fill took %v, want at most %v", took, 15*time.Second)
		}
		if n := e.resumes(); n != 1 {
			t.Errorf("got %d connections replaced, want 1", n)
		}
		if s.sent > rangedSize {
			t.Errorf("the source sent %d bytes, want at most %d", s.sent, rangedSize)
		}
	})
}

// TestWorkerKeepsUnevenConnection checks that a fill does not replace a connection that is
// eight times slower than the others.
func TestWorkerKeepsUnevenConnection(t *testing.T) {
	ranges(t, func(t *testing.T, e *env, s *source) {
		s.ranged = func(ctx context.Context, n int, offset, length int64) (*fill.Body, error) {
			pause := 10 * time.Millisecond
			if n == 2 {
				pause = 80 * time.Millisecond
			}
			return s.span(offset, length, polite(ctx, s.counted(Paced(s.from(offset), 1000, pause)))), nil
		}
		begin := time.Now()
		e.whole(s)
		if took, n := time.Since(begin), e.resumes(); n != 0 || took < 2*slowInterval {
			t.Errorf("got %d connections replaced in %v, want none in at least %v", n, took, 2*slowInterval)
		}
	})
}

// slowInterval is the time over which a fill compares the rates of its connections.
const slowInterval = 3 * time.Second

// TestFillAddsWorkersWhenSourceTurnsSlow checks that a fill replaces each connection at most twice
// when the source becomes slow on all connections, and then continues with those it has.
func TestFillAddsWorkersWhenSourceTurnsSlow(t *testing.T) {
	for connections, most := range map[int]int{1: 0, 4: 8} {
		ranges(t, func(t *testing.T, e *env, s *source) {
			s.connections = connections
			s.limits.MinRate = -1
			begin := time.Now()
			s.ranged = func(ctx context.Context, _ int, offset, length int64) (*fill.Body, error) {
				rest := s.from(offset)
				return s.span(offset, length, polite(ctx, readFunc(func(p []byte) (int, error) {
					pause := time.Second
					if time.Since(begin) < 4*time.Second {
						pause = 10 * time.Millisecond
					}
					time.Sleep(pause)
					return rest.Read(p[:min(len(p), 1000)])
				}))), nil
			}
			e.whole(s)
			if n := e.resumes(); n > most || (n > 0) != (most > 0) {
				t.Errorf("%d connections: got %d replaced, want at most %d, and at least 1 if any may be", connections, n, most)
			}
			if synctest.Wait(); !e.stored(s) {
				t.Errorf("%d connections: the content was not stored", connections)
			}
		})
	}
}
