package blobcache_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// lying makes a replica send content with one wrong byte. All but the first 1000 bytes of each
// answer come after the gate has been opened.
func (r *replica) lying(gate <-chan struct{}) {
	content := flipped(r.content, len(r.content)/2)
	r.ranged = func(ctx context.Context, _ int, offset, length int64) (*fill.Body, error) {
		sent := bytes.NewReader(content[offset:])
		return r.span(offset, length, io.MultiReader(io.LimitReader(sent, 1000), gated(ctx, gate, sent))), nil
	}
}

// TestReplicaLies checks that nobody gets wrong content of a replica whole, that the replica
// learns of it, and that the next request asks the source alone.
func TestReplicaLies(t *testing.T) {
	replicated(t, func(t *testing.T, e *env, s *source, r *replica) {
		gate := make(chan struct{})
		r.lying(gate)
		var all sync.WaitGroup
		for range 10 {
			reader, _, err := e.cache.Get(t.Context(), s.copied(r))
			if err != nil {
				t.Fatal(err)
			}
			all.Go(func() {
				defer reader.Close()
				e.broken(reader, s, fill.ErrDigestMismatch)
			})
		}
		synctest.Wait() // until all have had bytes, so that the transfer cannot begin anew
		close(gate)
		all.Wait()
		synctest.Wait()
		r.expectFailed(t, fill.ErrDigestMismatch)
		if e.stored(s) {
			t.Error("wrong content is stored")
		}
		before := r.fetches()
		if e.pull(s.copied(r), s.content); r.fetches() != before {
			t.Errorf("the next request: got %d fetches from the replica, want none", r.fetches()-before)
		}
		if s.connections > 1 && s.asked[0] < 0 {
			t.Error("the source was asked for the whole content, want a range: it has not lied")
		}
	})
}

// TestReplicaLiesUnread checks that a transfer begins anew with the source if a replica has
// sent wrong content and nobody has read any of it, and takes the room of one transfer.
func TestReplicaLiesUnread(t *testing.T) {
	replicated(t, func(t *testing.T, e *env, s *source, r *replica) {
		gate := make(chan struct{})
		close(gate)
		r.lying(gate)
		wait := make(chan struct{})
		s.ranged = func(ctx context.Context, _ int, offset, length int64) (*fill.Body, error) {
			return s.span(offset, length, io.MultiReader(io.LimitReader(s.from(offset), 50_000), gated(ctx, wait, s.from(offset+50_000)))), nil
		}
		reader, _, err := e.cache.Get(t.Context(), s.copied(r))
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		// A server sends the header as soon as there is a byte.
		if err := reader.AwaitByte(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second)
		if s.fetches() == 0 || reader.FromReplica() {
			t.Errorf("got %d fetches from the source, FromReplica is %v; want some and false", s.fetches(), reader.FromReplica())
		}
		if _, reserved, _ := e.cache.Counted(); reserved < 50_000 || reserved > replicaSize {
			t.Errorf("%d bytes are reserved on the way, want those that have come", reserved)
		}
		close(wait)
		e.same(reader, s.content)
		synctest.Wait()
		r.expectFailed(t, fill.ErrDigestMismatch)
		stored, reserved, _ := e.cache.Counted()
		if !e.stored(s) || stored != replicaSize || reserved != 0 {
			t.Errorf("the content is stored: %v, %d bytes are counted as stored and %d as reserved; want true, %d and 0", e.stored(s), stored, reserved, replicaSize)
		}
	})
}

// TestReplicaLiesWithoutSpool checks that wrong content of a replica is not delivered whole
// if it cannot be stored either.
func TestReplicaLiesWithoutSpool(t *testing.T) {
	noSpool(t, func(t *testing.T, e *env) {
		s := e.source(random(310, 400_000))
		r, gate := e.replica(s), make(chan struct{})
		close(gate)
		r.lying(gate)
		reader, _, err := e.cache.Get(t.Context(), s.copied(r))
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		e.broken(reader, s, fill.ErrDigestMismatch)
		r.expectFailed(t, fill.ErrDigestMismatch)
		e.pull(s.copied(r), s.content)
	})
}

// TestReplicaAndSourceMismatch checks that a replica learns of a mismatch although the source
// has sent the wrong byte, since nobody can know that.
func TestReplicaAndSourceMismatch(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(311, 400_000))
		r := e.replica(s)
		r.answer = func(_ context.Context, _ int, offset int64) (*fill.Body, error) {
			return r.body(offset, cut(r.from(offset), 100_000)), nil
		}
		gate := make(chan struct{})
		s.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
			return s.body(offset, gated(ctx, gate, bytes.NewReader(flipped(s.content, 300_000)[offset:]))), nil
		}
		reader, _, err := e.cache.Get(t.Context(), s.copied(r))
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		if _, err := io.ReadFull(reader, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		close(gate)
		e.broken(reader, s, fill.ErrDigestMismatch)
		if got := r.failures(); len(got) != 2 || !errors.Is(got[0], errSource) || !errors.Is(got[1], fill.ErrDigestMismatch) {
			t.Errorf("Failed: got the errors %v, want %v and %v", got, errSource, fill.ErrDigestMismatch)
		}
	})
}

// TestReplicaParts checks that ranges of a replica's content are not handed out before the
// whole is verified.
func TestReplicaParts(t *testing.T) {
	replicated(t, func(t *testing.T, e *env, s *source, r *replica) {
		gate := make(chan struct{})
		r.ranged = func(ctx context.Context, _ int, offset, length int64) (*fill.Body, error) {
			return r.span(offset, length, io.MultiReader(io.LimitReader(r.from(offset), 1000), gated(ctx, gate, r.from(offset+1000)))), nil
		}
		reader, _, err := e.cache.Get(t.Context(), s.copied(r))
		if err != nil {
			t.Fatal(err)
		}
		defer reader.Close()
		if reader.Parts() {
			t.Error("parts may be read before the content is verified")
		}
		close(gate)
		if err := reader.AwaitWhole(t.Context()); err != nil || !reader.Parts() {
			t.Errorf("after AwaitWhole with the error %v parts may be read: %v, want true", err, reader.Parts())
		}
	})
}

// TestReplicaStanding checks that a replica is asked only for content to which the scope is
// linked, or which its source has delivered to others and confirms for the scope.
func TestReplicaStanding(t *testing.T) {
	for name, c := range map[string]struct {
		standing  fill.Standing
		confirm   error
		confirmed []int64
		err       error
		replica   bool
	}{
		"nothing is known":   {standing: fill.Standing{Size: -1}},
		"linked":             {standing: fill.Standing{Linked: true, Delivered: true, Size: 400_000}, replica: true},
		"delivered":          {standing: fill.Standing{Delivered: true, Size: 400_000}, confirmed: []int64{400_000}, replica: true},
		"refused":            {standing: fill.Standing{Delivered: true, Size: 400_000}, confirm: errSource, confirmed: []int64{400_000}, err: errSource},
		"unconfirmed":        {standing: fill.Standing{Delivered: true, Size: 400_000}, confirm: fill.ErrUnconfirmed, confirmed: []int64{400_000}},
		"of an unknown size": {standing: fill.Standing{Linked: true, Size: -1}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, e *env) {
				s := e.source(random(312, 400_000))
				r := e.replica(s)
				mine := &claim{standing: c.standing, answer: func() error { return c.confirm }}
				req := mine.of(s.request("a"))
				req.Replicas = []fill.Replica{r}
				reader, _, err := e.cache.Get(t.Context(), req)
				if !errors.Is(err, c.err) {
					t.Errorf("Get: got the error %v, want %v", err, c.err)
				}
				if err == nil {
					e.same(reader, s.content)
					_ = reader.Close()
				}
				if asked, other := r.fetches() > 0, s.fetches() > 0; asked != c.replica || other != (!c.replica && c.err == nil) {
					t.Errorf("asked the replica: %v, the source: %v; want %v for the replica", asked, other, c.replica)
				}
				if got := mine.asked(); !slices.Equal(got, c.confirmed) {
					t.Errorf("the source was asked to confirm the sizes %d, want %d", got, c.confirmed)
				}
			})
		})
	}
}

// TestReplicaForManyScopes checks that 100 readers of several scopes share one transfer from a
// replica, after the source has confirmed the content for each scope.
func TestReplicaForManyScopes(t *testing.T) {
	replicated(t, func(t *testing.T, e *env, s *source, r *replica) {
		r.ranged = func(ctx context.Context, _ int, offset, length int64) (*fill.Body, error) {
			return r.slow(ctx, offset, length), nil
		}
		var claims [5]claim
		for i := range claims {
			claims[i].standing = fill.Standing{Delivered: true, Size: replicaSize}
		}
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() {
				time.Sleep(time.Duration(i) * 10 * time.Millisecond)
				scope := i % len(claims)
				req := claims[scope].of(s.request(string(rune('a' + scope))))
				req.Replicas = []fill.Replica{r}
				e.pull(req, s.content)
			})
		}
		all.Wait()
		if s.fetches() != 0 || r.sent != replicaSize {
			t.Errorf("got %d fetches from the source and %d bytes from the replica, want none and %d", s.fetches(), r.sent, replicaSize)
		}
		for i := range claims {
			if got := claims[i].asked(); len(got) != 1 {
				t.Errorf("the source was asked %d times to confirm the content for scope %d, want once", len(got), i)
			}
		}
	})
}

// TestReplicaOfEndedTransfer checks that a replica is not blamed for the end of a transfer
// that nobody reads.
func TestReplicaOfEndedTransfer(t *testing.T) {
	deserted(t, true, func(t *testing.T, e *env, s *source) {
		r := e.replica(s)
		r.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
			content := r.from(offset)
			return r.body(offset, readFunc(func(p []byte) (int, error) {
				select {
				case <-time.After(300 * time.Millisecond): // not a part of the grace period
					return content.Read(p[:min(len(p), 96<<10)])
				case <-ctx.Done():
					return 0, ctx.Err()
				}
			})), nil
		}
		reader, _, err := e.cache.Get(t.Context(), s.copied(r))
		if err != nil {
			t.Fatal(err)
		}
		_ = reader.Close()
		if got := <-e.ended; !errors.Is(got.err, fill.ErrAbandoned) {
			t.Errorf("FillDone: got the error %v, want %v", got.err, fill.ErrAbandoned)
		}
		r.expectFailed(t, nil)
	})
}
