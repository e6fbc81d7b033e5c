package blobcache_test

import (
	"context"
	"errors"
	"io/fs"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// copy asks replicas for the content of s.
func (e *env) copy(ctx context.Context, s *source, replicas ...*replica) ([]byte, error) {
	req := s.copied(replicas...)
	return e.cache.Copy(ctx, s.digest, req.Size, req.Replicas, fill.SourceLimits{})
}

// TestCacheCopy checks that Copy returns and stores what the first replica with the right
// content has, within the limits of time of those before it, and that the error is
// fs.ErrNotExist without one.
func TestCacheCopy(t *testing.T) {
	for name, fault := range replicaFaults {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, e *env) {
				s := e.source(random(320, replicaSize))
				bad, good := e.replica(s), e.replica(s)
				bad.ranged = func(ctx context.Context, _ int, offset, length int64) (*fill.Body, error) {
					return fault.answer(bad, ctx, offset, length)
				}
				if _, err := e.copy(t.Context(), s, bad); !errors.Is(err, fs.ErrNotExist) || e.stored(s) {
					t.Errorf("without another replica: got the error %v, stored: %v; want %v and false", err, e.stored(s), fs.ErrNotExist)
				}
				bad.expectFailed(t, fault.failed)
				begin := time.Now()
				content, err := e.copy(t.Context(), s, bad, good)
				if took := time.Since(begin); err != nil || string(content) != string(s.content) || took > fault.late+time.Second {
					t.Errorf("got %d bytes and the error %v after %v, want the content after %v at most", len(content), err, took, fault.late+time.Second)
				}
				if !e.stored(s) {
					t.Error("the content is not stored, want it stored")
				}
			})
		})
	}
}

// TestCacheCopyOfLies checks that Copy never returns wrong content, and that the replica is not
// asked for it again.
func TestCacheCopyOfLies(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(321, 50_000))
		r, gate := e.replica(s), make(chan struct{})
		close(gate)
		r.lying(gate)
		for range 2 {
			if content, err := e.copy(t.Context(), s, r); !errors.Is(err, fs.ErrNotExist) || content != nil {
				t.Errorf("got %d bytes and the error %v, want none and %v", len(content), err, fs.ErrNotExist)
			}
		}
		r.expectFailed(t, fill.ErrDigestMismatch)
		if r.fetches() != 1 || e.stored(s) {
			t.Errorf("got %d fetches, the content is stored: %v; want 1 and false", r.fetches(), e.stored(s))
		}
	})
}

// TestCacheCopyEnds checks that Copy ends with its context, for which it does not blame the
// replica.
func TestCacheCopyEnds(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(322, 50_000))
		r := e.replica(s)
		r.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
			return r.body(offset, stalled(ctx)), nil
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := e.copy(ctx, s, r); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got the error %v, want %v", err, context.DeadlineExceeded)
		}
		synctest.Wait()
		r.expectFailed(t, nil)
	})
}
