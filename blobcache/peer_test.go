package blobcache_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// fromPeers returns a request of scope a, of which nothing is known, for the content of s.
func (s *source) fromPeers(c *claim, peers ...*replica) fill.Request {
	req := c.of(s.request("a"))
	for _, p := range peers {
		req.Peers = append(req.Peers, p)
	}
	return req
}

// TestPeer checks that content of which nothing is known comes from a peer alone, in one
// stream, and that it then counts as delivered by the source. A replica that does not vouch
// for the scope is not asked.
func TestPeer(t *testing.T) {
	replicated(t, func(t *testing.T, e *env, s *source, p *replica) {
		bucket, mine, end := e.replica(s), &claim{}, make(chan struct{})
		p.ranged = func(ctx context.Context, _ int, offset, length int64) (*fill.Body, error) {
			return p.span(offset, length, io.MultiReader(io.LimitReader(p.from(offset), 1000), gated(ctx, end, p.from(offset+1000)))), nil
		}
		req := s.fromPeers(mine, p)
		req.Replicas = []fill.Replica{bucket}
		req.Fetched = func(n int) { t.Errorf("Fetched was called with %d, want no call", n) }
		reader, _, err := e.cache.Get(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		if sizes := mine.sizes(); len(sizes) > 0 {
			t.Errorf("before the end: got the deliveries %d, want none", sizes)
		}
		close(end)
		e.same(reader, s.content)
		synctest.Wait()
		if !reader.FromReplica() || !e.stored(s) || s.fetches() != 0 || bucket.fetches() != 0 {
			t.Errorf("FromReplica is %v, the content is stored: %v, after %d fetches from the source and %d from the replica; want true, true and none",
				reader.FromReplica(), e.stored(s), s.fetches(), bucket.fetches())
		}
		if !slices.Equal(p.asked, []int64{-1}) {
			t.Errorf("the peer was asked for the lengths %d, want all that follows, once", p.asked)
		}
		if asked, sizes := mine.asked(), mine.sizes(); len(asked) != 0 || !slices.Equal(sizes, []int64{replicaSize}) {
			t.Errorf("the source was asked to confirm %d, got the deliveries %d; want none and one of %d bytes", asked, sizes, replicaSize)
		}
		p.expectFailed(t, nil)
		if origin := e.pull(req, s.content); origin != fill.Hit {
			t.Errorf("the next request: got the origin %v, want %v", origin, fill.Hit)
		}
	})
}

// TestPeerFails checks that a transfer goes on from the next peer, or from the source, at the
// same byte, when a peer fails, and what a peer may take its time for.
func TestPeerFails(t *testing.T) {
	late := map[string]time.Duration{"silent": 10 * time.Second, "too late": 3 * time.Second, "stalls": 10 * time.Second, "trickles": 150 * time.Second}
	for name, fault := range replicaFaults {
		slow := name == "too late" || name == "trickles" // not for a peer
		for _, others := range []int{0, 1} {
			t.Run(fmt.Sprintf("%s/%d", name, others), func(t *testing.T) {
				replicated(t, func(t *testing.T, e *env, s *source, p *replica) {
					p.ranged = func(ctx context.Context, _ int, offset, length int64) (*fill.Body, error) {
						return fault.answer(p, ctx, offset, length)
					}
					peers := []*replica{p, e.replica(s)}[:1+others]
					mine, begin := &claim{}, time.Now()
					e.pull(s.fromPeers(mine, peers...), s.content)
					if took := time.Since(begin); took > late[name]+time.Second {
						t.Errorf("the pull took %v, want at most %v", took, late[name]+time.Second)
					}
					synctest.Wait()
					if sizes := mine.sizes(); !e.stored(s) || !slices.Equal(sizes, []int64{replicaSize}) || e.resumes() != 0 {
						t.Errorf("the content is stored: %v, with the deliveries %d after %d resumes; want true, one and none", e.stored(s), sizes, e.resumes())
					}
					if from := s.fetches() > 0; from != (!slow && others == 0) {
						t.Errorf("the source was asked: %v, want %v", from, !from)
					}
					if want := fault.failed; slow {
						p.expectFailed(t, nil)
					} else {
						p.expectFailed(t, want)
					}
				})
			})
		}
	}
}

// TestPeerTooSlow checks that a peer is given up below the minimum rate of the source.
func TestPeerTooSlow(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(330, replicaSize))
		p := e.replica(s)
		p.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
			return p.body(offset, polite(ctx, Paced(p.from(offset), 10_000, time.Second))), nil
		}
		begin := time.Now()
		e.pull(s.fromPeers(&claim{}, p), s.content)
		p.expectFailed(t, fill.ErrTooSlow)
		if took := time.Since(begin); took > 11*time.Second {
			t.Errorf("the pull took %v, want 11s at most", took)
		}
	})
}

// TestPeerTellsAnotherSize checks that a wrong size of a peer fails no pull if a manifest tells
// the right one, or if nobody has read any of the content yet, whatever else the peer does.
func TestPeerTellsAnotherSize(t *testing.T) {
	for _, size := range []int64{-1, 0, 1000, replicaSize - 1, replicaSize + 1, 2 * replicaSize} {
		for _, hint := range []int64{0, replicaSize} {
			replicated(t, func(t *testing.T, e *env, s *source, p *replica) {
				p.answer = func(_ context.Context, _ int, offset int64) (*fill.Body, error) {
					body := p.body(offset, p.from(offset))
					body.Size = size
					return body, nil
				}
				mine := &claim{}
				req := s.fromPeers(mine, p)
				req.SizeHint = hint
				reader, _, err := e.cache.Get(t.Context(), req)
				if err != nil {
					t.Fatal(err)
				}
				defer reader.Close()
				synctest.Wait()
				if reader.Size() == replicaSize {
					e.same(reader, s.content)
				} else if n, err := io.Copy(io.Discard, reader); err == nil {
					t.Errorf("size %d: got %d bytes and no error, want one", size, n)
				}
				synctest.Wait()
				if sizes := mine.sizes(); !e.stored(s) || !slices.Equal(sizes, []int64{replicaSize}) {
					t.Errorf("size %d: the content is stored: %v, with the deliveries %d; want true and one of %d bytes", size, e.stored(s), sizes, replicaSize)
				}
				if hint > 0 && reader.Size() != replicaSize {
					t.Errorf("size %d: %d bytes are announced, want those of the manifest", size, reader.Size())
				}
				if failed := len(p.failures()) > 0; failed != (hint == 0) {
					t.Errorf("size %d: the peer is told of a failure: %v, want it unless a manifest may be wrong", size, failed)
				}
			})
		}
	}
}

// TestPeerGivenUpBeforeReplica checks that the source confirms the content for the scope before
// a replica is asked that does not vouch for it, and that nothing but peers is asked without.
func TestPeerGivenUpBeforeReplica(t *testing.T) {
	delivered := fill.Standing{Delivered: true, Size: 400_000}
	for name, c := range map[string]struct {
		standing  fill.Standing
		confirm   error
		err       error
		confirmed int
		replica   bool
		source    bool
	}{
		"linked":           {standing: fill.Standing{Linked: true, Delivered: true, Size: 400_000}, replica: true},
		"delivered":        {standing: delivered, confirmed: 1, replica: true},
		"refused":          {standing: delivered, confirm: errSource, confirmed: 1, err: errSource},
		"unconfirmed":      {standing: delivered, confirm: fill.ErrUnconfirmed, confirmed: 1, source: true},
		"nothing is known": {standing: fill.Standing{Size: -1}, source: true},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, e *env) {
				s := e.source(random(331, 400_000))
				p, bucket := e.replica(s), e.replica(s)
				p.answer = func(context.Context, int, int64) (*fill.Body, error) { return nil, fs.ErrNotExist }
				mine := &claim{standing: c.standing, answer: func() error { return c.confirm }}
				req := s.fromPeers(mine, p)
				req.Replicas = []fill.Replica{bucket}
				reader, _, err := e.cache.Get(t.Context(), req)
				if !errors.Is(err, c.err) {
					t.Fatalf("got the error %v, want %v", err, c.err)
				}
				if err == nil {
					e.same(reader, s.content)
					_ = reader.Close()
				}
				if asked := len(mine.asked()); asked != c.confirmed || (bucket.fetches() > 0) != c.replica || (s.fetches() > 0) != c.source || p.fetches() != 1 {
					t.Errorf("got %d confirmations, %d fetches from the replica, %d from the source and %d from the peer; want %d, %v, %v and 1",
						asked, bucket.fetches(), s.fetches(), p.fetches(), c.confirmed, c.replica, c.source)
				}
			})
		})
	}
}

// TestPeerParts checks that ranges of what a peer sends are handed out before the whole is
// verified only to a request that verifies it.
func TestPeerParts(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(332, 400_000))
		p, gate := e.replica(s), make(chan struct{})
		p.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
			return p.body(offset, io.MultiReader(io.LimitReader(p.from(offset), 200_000), gated(ctx, gate, p.from(offset+200_000)))), nil
		}
		for _, verifies := range []bool{false, true} {
			req := s.fromPeers(&claim{}, p)
			req.Verifies = verifies
			reader, _, err := e.cache.Get(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			defer reader.Close()
			if reader.Parts() != verifies {
				t.Errorf("Verifies is %v: parts may be read: %v, want %v", verifies, !verifies, verifies)
			}
			if !verifies {
				continue
			}
			if _, err := reader.Seek(100_000, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			part := make([]byte, 100_000)
			if _, err := io.ReadFull(reader, part); err != nil || !slices.Equal(part, s.content[100_000:200_000]) {
				t.Errorf("reading a part: got the error %v, or wrong bytes", err)
			}
			close(gate)
			if rest, err := io.ReadAll(reader); err != nil || !slices.Equal(rest, s.content[200_000:]) {
				t.Errorf("reading the rest: got %d bytes and the error %v", len(rest), err)
			}
		}
	})
}

// TestPeerThatAsksBack checks that a peer does not follow a fill that waits for it, and that
// it does once the fill waits for the source.
func TestPeerThatAsksBack(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(333, 400_000))
		p, other := e.replica(s), e.replica(s)
		wait := make(chan struct{})
		p.answer = func(context.Context, int, int64) (*fill.Body, error) {
			<-wait
			return nil, fs.ErrNotExist
		}
		s.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
			return s.body(offset, io.MultiReader(io.LimitReader(s.from(offset), 1000), Paced(s.from(offset+1000), 400_000, time.Second))), nil
		}
		go e.pull(s.fromPeers(&claim{}, p), s.content)
		synctest.Wait()
		back := s.fromPeers(&claim{})
		back.Circular = func(peer fill.Replica, answered bool) bool { return peer == p && !answered }
		if _, _, err := e.cache.Get(t.Context(), back); !errors.Is(err, fill.ErrCircular) {
			t.Errorf("the peer that is waited for: got the error %v, want %v", err, fill.ErrCircular)
		}
		close(wait)
		synctest.Wait()
		e.pull(back, s.content)
		if s.fetches() != 1 || other.fetches() != 0 {
			t.Errorf("got %d fetches from the source, want 1", s.fetches())
		}
	})
}
