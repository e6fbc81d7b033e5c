package blobcache_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// claim is the [fill.Claim] of a scope. Its zero value is that of a source that has
// delivered nothing.
type claim struct {
	answer func() error // returns the result of Confirm; if nil, Confirm returns nil

	mu        sync.Mutex
	standing  fill.Standing
	confirmed []int64
	delivered []int64
}

// of returns req with c as its claim.
func (c *claim) of(req fill.Request) fill.Request {
	req.Claim = c
	return req
}

func (c *claim) Standing(context.Context) fill.Standing {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.standing
}

func (c *claim) Confirm(_ context.Context, size int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.confirmed = append(c.confirmed, size)
	if c.answer == nil {
		return nil
	}
	return c.answer()
}

func (c *claim) Delivered(size int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.delivered = append(c.delivered, size)
	c.standing = fill.Standing{Linked: true, Size: size, Delivered: true}
}

// sizes returns the sizes with which Delivered was called.
func (c *claim) sizes() []int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.delivered)
}

// asked returns the sizes with which Confirm was called.
func (c *claim) asked() []int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.confirmed)
}

// at returns req with its endpoint set.
func at(endpoint string, req fill.Request) fill.Request {
	req.Endpoint = endpoint
	return req
}

// pull reads the content of req to its end and checks that it equals want.
func (e *env) pull(req fill.Request, want []byte) fill.Origin {
	e.t.Helper()
	r, origin, err := e.cache.Get(e.t.Context(), req)
	if err != nil {
		e.t.Errorf("Get: got the error %v, want none", err)
		return origin
	}
	defer r.Close()
	e.same(r, want)
	return origin
}

// TestGetStoredOfOtherSource checks that stored content is served to a scope only if the
// scope's source has delivered it before and confirms it for the scope.
func TestGetStoredOfOtherSource(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		red := e.source(random(1, 50_000))
		blue := e.source(red.content)
		e.pull(at("red", (&claim{}).of(red.request("red"))), red.content)
		synctest.Wait()

		c := &claim{}
		if origin := e.pull(at("blue", c.of(blue.request("blue"))), red.content); origin != fill.Started || blue.fetches() != 1 {
			t.Errorf("content of another source: got the origin %v after %d fetches, want %v after 1", origin, blue.fetches(), fill.Started)
		}
		synctest.Wait()
		if got := c.asked(); len(got) != 0 {
			t.Errorf("the source was asked to confirm the sizes %d, want none", got)
		}
		if got := c.sizes(); !slices.Equal(got, []int64{50_000}) {
			t.Errorf("got the deliveries %d, want [50000]", got)
		}
		// The second scope is another repository of the same source.
		second := &claim{standing: fill.Standing{Delivered: true, Size: 50_000}}
		if origin := e.pull(at("blue", second.of(blue.request("blue2"))), red.content); origin != fill.Hit || blue.fetches() != 1 {
			t.Errorf("content that the source has delivered: got the origin %v after %d fetches, want %v after 1", origin, blue.fetches(), fill.Hit)
		}
		if got := second.asked(); !slices.Equal(got, []int64{50_000}) {
			t.Errorf("the source was asked to confirm the sizes %d, want [50000]", got)
		}
		denied := &claim{standing: fill.Standing{Delivered: true, Size: 50_000}, answer: func() error { return errSource }}
		if _, _, err := e.cache.Get(t.Context(), at("blue", denied.of(blue.request("blue3")))); !errors.Is(err, errSource) {
			t.Errorf("content that the source denies: got the error %v, want %v", err, errSource)
		}
		if got := denied.sizes(); len(got) != 0 {
			t.Errorf("content that the source denies: got the deliveries %d, want none", got)
		}
	})
}

// TestGetStoresOnce checks that content that several sources deliver is stored and counted
// once.
func TestGetStoresOnce(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		c := blobcache.New(e.store, blobcache.Limits{Reserve: -1}, e.hooks())
		content := random(2, 60_000)
		for i := range 3 {
			s := e.source(content)
			r, _, err := c.Get(t.Context(), at(fmt.Sprint(i), (&claim{}).of(s.request(fmt.Sprint(i)))))
			if err != nil {
				t.Fatal(err)
			}
			e.same(r, content)
			_ = r.Close()
			synctest.Wait()
			if stored, reserved, _ := c.Counted(); stored != 60_000 || reserved != 0 || s.fetches() != 1 {
				t.Errorf("source %d: got %d stored bytes, %d reserved bytes and %d fetches, want 60000, 0 and 1", i, stored, reserved, s.fetches())
			}
		}
	})
}

// TestGetFillsOfEndpointsApart checks that a request of one endpoint does not wait for a
// fill of another, and gets none of its bytes.
func TestGetFillsOfEndpointsApart(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		red := e.source(random(3, 100_000))
		hostile := e.source(random(4, 100_000))
		hostile.digest = red.digest
		hostile.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
			body := hostile.body(offset, io.MultiReader(bytes.NewReader(hostile.content[offset:99_999]), stalled(ctx)))
			body.Size = 100_000
			return body, nil
		}
		r, _, err := e.cache.Get(t.Context(), at("blue", (&claim{}).of(hostile.request("blue"))))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		if _, err := io.ReadFull(r, make([]byte, 50_000)); err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if origin := e.pull(at("red", (&claim{}).of(red.request("red"))), red.content); origin != fill.Started {
			t.Errorf("got the origin %v, want %v", origin, fill.Started)
		}
		if took := time.Since(begin); took > time.Second {
			t.Errorf("the pull took %v, want at most 1s", took)
		}
		if len(e.cache.Fills()) == 0 {
			t.Error("got no fill of the other endpoint during the pull, want one")
		}
	})
}

// TestGetJoinsOfEndpoint checks that the scopes of an endpoint share a fill, that the
// source confirms each further scope once, and that all of their claims are told of the
// delivery.
func TestGetJoinsOfEndpoint(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s, gate := e.source(random(5, 80_000)), make(chan struct{})
		s.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
			return s.body(offset, io.MultiReader(io.LimitReader(s.from(offset), 40_000), gated(ctx, gate, s.from(40_000)))), nil
		}
		red, blue := &claim{}, &claim{}
		green := &claim{answer: func() error { return errSource }}
		var all sync.WaitGroup
		for _, c := range []struct {
			*claim
			scope string
		}{{red, "red"}, {red, "red"}, {blue, "blue"}, {blue, "blue"}} {
			all.Go(func() { e.pull(at("hub", c.of(s.request(c.scope))), s.content) })
			synctest.Wait()
		}
		if _, _, err := e.cache.Get(t.Context(), at("hub", green.of(s.request("green")))); !errors.Is(err, errSource) {
			t.Errorf("content that the source denies: got the error %v, want %v", err, errSource)
		}
		if got := len(blue.sizes()) + len(red.sizes()); got != 0 {
			t.Errorf("got %d deliveries before the digest was verified, want 0", got)
		}
		close(gate)
		all.Wait()
		synctest.Wait()
		if got := red.asked(); len(got) != 0 {
			t.Errorf("red, which started the fill: the source was asked to confirm the sizes %d, want none", got)
		}
		if got := blue.asked(); !slices.Equal(got, []int64{-1}) {
			t.Errorf("blue: the source was asked to confirm the sizes %d, want [-1]", got)
		}
		for name, c := range map[string]*claim{"red": red, "blue": blue} {
			if got := c.sizes(); !slices.Equal(got, []int64{80_000}) {
				t.Errorf("%s: got the deliveries %d, want [80000]", name, got)
			}
		}
		if got := green.sizes(); len(got) != 0 || s.fetches() != 1 {
			t.Errorf("green: got the deliveries %d and %d fetches, want none and 1", got, s.fetches())
		}
	})
}

// TestGetUnconfirmed checks that a scope fetches the content itself if the source neither
// confirms nor denies it, whether the content is stored or being fetched.
func TestGetUnconfirmed(t *testing.T) {
	for _, stored := range []bool{true, false} {
		t.Run(fmt.Sprintf("stored %v", stored), func(t *testing.T) {
			bubble(t, func(t *testing.T, e *env) {
				s, other := e.source(random(6, 70_000)), e.source(random(6, 70_000))
				if !stored {
					s.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
						return s.body(offset, io.MultiReader(io.LimitReader(s.from(offset), 40_000), stalled(ctx))), nil
					}
				}
				first, _, err := e.cache.Get(t.Context(), at("hub", (&claim{}).of(s.request("red"))))
				if err != nil {
					t.Fatal(err)
				}
				defer first.Close()
				synctest.Wait()
				c := &claim{answer: func() error { return fmt.Errorf("%w: no", fill.ErrUnconfirmed) }}
				c.standing = fill.Standing{Delivered: stored, Size: 70_000}
				if origin := e.pull(at("hub", c.of(other.request("blue"))), s.content); origin != fill.Started || other.fetches() != 1 {
					t.Errorf("got the origin %v after %d fetches, want %v after 1", origin, other.fetches(), fill.Started)
				}
				synctest.Wait()
				if got := c.sizes(); !slices.Equal(got, []int64{70_000}) {
					t.Errorf("got the deliveries %d, want [70000]", got)
				}
			})
		})
	}
}

// TestGetContradictedSize checks that Get fails, before the client gets a byte, when the
// source announces another size than the request.
func TestGetContradictedSize(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(7, 1000))
		req := s.request("a")
		req.Size = 999
		if _, _, err := e.cache.Get(t.Context(), req); !errors.Is(err, fill.ErrDigestMismatch) {
			t.Errorf("Get: got the error %v, want %v", err, fill.ErrDigestMismatch)
		}
	})
}
