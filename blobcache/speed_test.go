package blobcache_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// TestWorkerReplacesSlowConnection is exchanged for another one, with what it has brought
// kept: the readers would wait ten minutes for it.
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
			t.Errorf("took %v", took)
		}
		if n := e.resumes(); n != 1 {
			t.Errorf("%d connections were exchanged", n)
		}
		if s.sent > rangedSize {
			t.Errorf("%d bytes were sent", s.sent)
		}
	})
}

// TestFillAddsWorkersWhenSourceTurnsSlow: other connections to a source that has become slow for all
// are no faster. Each is tried twice, and then the fill goes on with what there is.
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
				t.Errorf("%d connections: %d were exchanged", connections, n)
			}
			if synctest.Wait(); !e.stored(s) {
				t.Error("not stored")
			}
		})
	}
}
