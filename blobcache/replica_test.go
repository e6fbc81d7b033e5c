package blobcache_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

const replicaSize = 3_000_000

// replica is a fake [fill.Replica] that answers as a source and records the calls of Failed.
type replica struct {
	*source

	mu     sync.Mutex
	failed []error
}

// replica returns a replica with the content of s.
func (e *env) replica(s *source) *replica { return &replica{source: e.source(s.content)} }

// Fetch implements [fill.Replica].
func (r *replica) Fetch(ctx context.Context, d digest.Digest, offset, length int64) (*fill.Body, error) {
	if d != r.digest {
		return nil, fs.ErrNotExist
	}
	return r.fetch(ctx, offset, length, "")
}

// Failed implements [fill.Replica].
func (r *replica) Failed(_ digest.Digest, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.failed = append(r.failed, err)
}

// failures returns the errors with which Failed was called.
func (r *replica) failures() []error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.failed)
}

// expectFailed reports an error unless Failed was called once, with want, or never if want
// is nil.
func (r *replica) expectFailed(t *testing.T, want error) {
	t.Helper()
	got := r.failures()
	if want == nil && len(got) > 0 || want != nil && (len(got) != 1 || !errors.Is(got[0], want)) {
		t.Errorf("Failed: got the errors %v, want one that is %v, or none for <nil>", got, want)
	}
}

// copied returns a request of scope a for the content of s, to which the scope is linked.
func (s *source) copied(replicas ...*replica) fill.Request {
	req := s.request("a")
	req.Size = int64(len(s.content))
	for _, r := range replicas {
		req.Replicas = append(req.Replicas, r)
	}
	return req
}

// replicated runs a test with a source and a replica of it, over one connection and several.
func replicated(t *testing.T, test func(t *testing.T, e *env, s *source, r *replica)) {
	t.Helper()
	for _, connections := range []int{1, 4} {
		bubble(t, func(t *testing.T, e *env) {
			e.cache.SetSpans(400_000, 100_000, 800_000)
			s := e.source(random(300, replicaSize))
			s.connections = connections
			test(t, e, s, e.replica(s))
		})
	}
}

// TestReplica checks that content comes from a replica alone, whose bytes are not counted as
// fetched, and that it is stored.
func TestReplica(t *testing.T) {
	replicated(t, func(t *testing.T, e *env, s *source, r *replica) {
		req := s.copied(r)
		req.Fetched = func(n int) { t.Errorf("Fetched was called with %d, want no call", n) }
		reader, origin, err := e.cache.Get(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		e.same(reader, s.content)
		if origin != fill.Started || !reader.FromReplica() || s.fetches() != 0 {
			t.Errorf("got the origin %v, FromReplica %v and %d fetches from the source, want %v, true and none", origin, reader.FromReplica(), s.fetches(), fill.Started)
		}
		synctest.Wait()
		if !e.stored(s) || e.resumes() != 0 {
			t.Errorf("the content is stored: %v, after %d resumes; want true and none", e.stored(s), e.resumes())
		}
		r.expectFailed(t, nil)
		before := r.fetches()
		if origin := e.pull(req, s.content); origin != fill.Hit || r.fetches() != before {
			t.Errorf("the next request: got the origin %v and %d fetches, want %v and none", origin, r.fetches()-before, fill.Hit)
		}
	})
}

// replicaFaults are faults of a replica, each with the error of Failed.
var replicaFaults = map[string]struct {
	answer func(r *replica, ctx context.Context, offset, length int64) (*fill.Body, error)
	failed error
	late   time.Duration // how long a reader has to wait for it at most
}{
	"absent": {func(*replica, context.Context, int64, int64) (*fill.Body, error) { return nil, fs.ErrNotExist }, nil, 0},
	"down":   {func(*replica, context.Context, int64, int64) (*fill.Body, error) { return nil, errSource }, errSource, 0},
	"silent": {func(_ *replica, ctx context.Context, _, _ int64) (*fill.Body, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}, context.DeadlineExceeded, 2 * time.Second},
	"too late": {func(r *replica, _ context.Context, offset, length int64) (*fill.Body, error) {
		time.Sleep(3 * time.Second)
		return r.span(offset, length, r.from(offset)), nil
	}, context.DeadlineExceeded, 3 * time.Second},
	"stalls": {func(r *replica, ctx context.Context, offset, length int64) (*fill.Body, error) {
		return r.span(offset, length, io.MultiReader(io.LimitReader(r.from(offset), 50_000), stalled(ctx))), nil
	}, context.DeadlineExceeded, 5 * time.Second},
	"trickles": {func(r *replica, ctx context.Context, offset, length int64) (*fill.Body, error) {
		return r.span(offset, length, polite(ctx, Paced(r.from(offset), 20_000, time.Second))), nil
	}, fill.ErrTooSlow, 10 * time.Second},
	"breaks off": {func(r *replica, _ context.Context, offset, length int64) (*fill.Body, error) {
		return r.span(offset, length, cut(r.from(offset), 50_000)), nil
	}, errSource, 0},
	"ends early": {func(r *replica, _ context.Context, offset, length int64) (*fill.Body, error) {
		return r.span(offset, length, io.LimitReader(r.from(offset), 50_000)), nil
	}, io.ErrUnexpectedEOF, 0},
	"sends nothing": {func(r *replica, _ context.Context, offset, length int64) (*fill.Body, error) {
		return r.span(offset, length, io.LimitReader(r.from(offset), 0)), nil
	}, io.ErrUnexpectedEOF, 0},
}

// TestReplicaFails checks that a transfer goes on from the source, at the same byte and
// without a pause, when a replica fails, and that the replica is not asked any more.
func TestReplicaFails(t *testing.T) {
	for name, fault := range replicaFaults {
		t.Run(name, func(t *testing.T) {
			replicated(t, func(t *testing.T, e *env, s *source, r *replica) {
				r.ranged = func(ctx context.Context, _ int, offset, length int64) (*fill.Body, error) {
					return fault.answer(r, ctx, offset, length)
				}
				fetched := 0
				var mu sync.Mutex
				req := s.copied(r)
				req.Fetched = func(n int) {
					mu.Lock()
					defer mu.Unlock()
					fetched += n
				}
				begin := time.Now()
				e.pull(req, s.content)
				if took := time.Since(begin); took > fault.late+time.Second {
					t.Errorf("the pull took %v, want at most %v", took, fault.late+time.Second)
				}
				synctest.Wait()
				if !e.stored(s) || fetched == 0 || fetched > replicaSize || e.resumes() != 0 {
					t.Errorf("the content is stored: %v, after %d bytes from the source and %d resumes; want true, at most %d bytes and none", e.stored(s), fetched, e.resumes(), replicaSize)
				}
				r.expectFailed(t, fault.failed)
				if s.connections == 1 && r.fetches() != 1 {
					t.Errorf("got %d fetches from the replica, want 1", r.fetches())
				}
			})
		})
	}
}

// TestReplicaAnswersAnother checks that a replica is given up, before any of its bytes are
// used, if its answer does not fit the size of the content or the request.
func TestReplicaAnswersAnother(t *testing.T) {
	for name, change := range map[string]func(*fill.Body){
		"a smaller size":  func(b *fill.Body) { b.Size = 1000 },
		"a larger size":   func(b *fill.Body) { b.Size++ },
		"no size":         func(b *fill.Body) { b.Size = -1 },
		"another offset":  func(b *fill.Body) { b.Offset++ },
		"a shorter range": func(b *fill.Body) { b.End = 1000 },
		"a longer range":  func(b *fill.Body) { b.End = replicaSize + 1 },
	} {
		t.Run(name, func(t *testing.T) {
			replicated(t, func(t *testing.T, e *env, s *source, r *replica) {
				r.ranged = func(ctx context.Context, _ int, offset, length int64) (*fill.Body, error) {
					body := r.span(offset, length, stalled(ctx))
					change(body)
					return body, nil
				}
				begin := time.Now()
				e.pull(s.copied(r), s.content)
				if took := time.Since(begin); took > time.Second || len(r.failures()) != 1 || r.fetches() != 1 {
					t.Errorf("the pull took %v, with the failures %v after %d fetches; want less than 1s and one of each", took, r.failures(), r.fetches())
				}
			})
		})
	}
}

// TestReplicaSendsMore checks that bytes beyond the end of the content are ignored.
func TestReplicaSendsMore(t *testing.T) {
	replicated(t, func(t *testing.T, e *env, s *source, r *replica) {
		r.ranged = func(_ context.Context, _ int, offset, length int64) (*fill.Body, error) {
			body := r.span(offset, length, nil)
			body.ReadCloser = &sourceBody{io.MultiReader(r.from(offset), r.from(0)), r.source}
			return body, nil
		}
		e.pull(s.copied(r), s.content)
		r.expectFailed(t, nil)
		if s.fetches() != 0 {
			t.Errorf("got %d fetches from the source, want none", s.fetches())
		}
	})
}

// TestReplicasInTurn checks that a transfer goes on from one replica to the next, and then to
// the source, each from the byte where the one before has stopped.
func TestReplicasInTurn(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(301, replicaSize))
		first, absent, second := e.replica(s), e.replica(s), e.replica(s)
		for r, n := range map[*replica]int64{first: 1_000_000, second: 500_000} {
			r.answer = func(_ context.Context, _ int, offset int64) (*fill.Body, error) {
				return r.body(offset, cut(r.from(offset), n)), nil
			}
		}
		absent.answer = func(context.Context, int, int64) (*fill.Body, error) { return nil, fs.ErrNotExist }
		reader, _, err := e.cache.Get(t.Context(), s.copied(first, absent, second))
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		begin := time.Now()
		e.same(reader, s.content)
		if took := time.Since(begin); took != 0 || reader.FromReplica() {
			t.Errorf("the pull took %v, FromReplica is %v; want 0s and false", took, reader.FromReplica())
		}
		for i, c := range []struct {
			source *source
			offset int64
		}{{first.source, 0}, {absent.source, 1_000_000}, {second.source, 1_000_000}, {s, 1_500_000}} {
			if want := []call{{c.offset, ""}}; !slices.Equal(c.source.calls, want) {
				t.Errorf("source %d: got the calls %v, want %v", i, c.source.calls, want)
			}
		}
	})
}

// TestReplicaWithoutSpool checks that content that cannot be stored comes from replicas too,
// and goes on from the source if they fail.
func TestReplicaWithoutSpool(t *testing.T) {
	noSpool(t, func(t *testing.T, e *env) {
		s := e.source(random(302, 400_000))
		whole, half := e.replica(s), e.replica(s)
		half.answer = func(_ context.Context, _ int, offset int64) (*fill.Body, error) {
			return half.body(offset, cut(half.from(offset), 200_000)), nil
		}
		if e.pull(s.copied(whole), s.content); s.fetches() != 0 {
			t.Errorf("got %d fetches from the source, want none", s.fetches())
		}
		if e.pull(s.copied(half), s.content); !slices.Equal(s.calls, []call{{200_000, ""}}) {
			t.Errorf("got the calls %v of the source, want one at 200000", s.calls)
		}
	})
}
