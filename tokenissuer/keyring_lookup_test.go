package tokenissuer

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/internal/record"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/internal/record/recordtest"
)

// TestKeyRingLimitsLookups checks that tokens of unknown keys cause a limited
// number of listings, and none if the token is invalid anyway.
func TestKeyRingLimitsLookups(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	node := newNode(s, c, 0)
	long := request("alice")
	long.Lifetime = 12 * time.Hour
	raw := mint(t, node, long).Raw
	before := s.Listed()
	forged := func() string { return mint(t, newNode(recordtest.NewStorage(t), c, 0), request("alice")).Raw }
	count := func(n int) int {
		for range n {
			refuse(t, node, forged(), ErrInvalidToken)
			accept(t, node, raw)
		}
		defer func() { before = s.Listed() }()
		return s.Listed() - before
	}
	if n := count(60); n != lookupBurst {
		t.Errorf("got %d listings, want %d", n, lookupBurst)
	}
	for range 5 {
		c.Advance(lookupInterval)
		if n := count(20); n != 1 {
			t.Errorf("got %d listings a second later, want 1", n)
		}
	}
	c.Advance(time.Hour)
	if n := count(30); n != lookupBurst {
		t.Errorf("got %d listings an hour later, want %d", n, lookupBurst)
	}
	c.Advance(time.Hour)
	stale := forged()
	c.Advance(time.Hour)
	refuse(t, node, stale, ErrInvalidToken)
	if n := s.Listed() - before; n != 0 {
		t.Errorf("got %d listings for an expired token, want 0", n)
	}
}

// TestKeyRingSharesLookups checks that many requests with a token of an unknown
// key cause one listing, during which known keys verify and sign, and that a
// client can leave.
func TestKeyRingSharesLookups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := recordtest.NewStorage(t)
		node := New(Config{Storage: s})
		other := New(Config{Storage: s})
		s.Unlisted = true
		known := mint(t, node, request("alice")).Raw
		news := mint(t, other, request("alice")).Raw
		release := stall(s)
		before := s.Listed()
		var group sync.WaitGroup
		for range 100 {
			group.Go(func() { accept(t, node, news) })
		}
		synctest.Wait()
		start := time.Now()
		accept(t, node, known)
		accept(t, node, mint(t, node, request("alice")).Raw)
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := node.Verify(gone, news, testIssuer, Access); !errors.Is(err, ErrKeysUnavailable) || !errors.Is(err, context.Canceled) {
			t.Errorf("got error %v for a client that left, want ErrKeysUnavailable and context.Canceled", err)
		}
		if waited := time.Since(start); waited != 0 {
			t.Errorf("got %s for known keys, want 0", waited)
		}
		close(release)
		group.Wait()
		if n := s.Listed() - before; n != 1 {
			t.Errorf("got %d listings, want 1", n)
		}
	})
}

// stall makes the listings of s wait until the returned channel is closed.
func stall(s *recordtest.Storage) chan struct{} {
	release := make(chan struct{})
	s.Set(func() {
		s.Unlisted = false
		s.OnList = func(ctx context.Context) {
			select {
			case <-release:
			case <-ctx.Done():
			}
		}
	})
	return release
}

// TestKeyRingHangingStorage checks that a storage that does not answer delays one
// mint by its timeout and no other, and that the listing continues when the
// client that caused it leaves.
func TestKeyRingHangingStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := recordtest.NewStorage(t)
		node := New(Config{Storage: s})
		mint(t, node, request("alice"))
		time.Sleep(refreshInterval)
		before := s.Listed()
		stall(s)
		start := time.Now()
		var group sync.WaitGroup
		group.Go(func() { mint(t, node, request("alice")) })
		synctest.Wait()
		mint(t, node, request("alice"))
		if waited := time.Since(start); waited != 0 {
			t.Errorf("got %s for another mint, want 0", waited)
		}
		group.Wait()
		if waited := time.Since(start); waited != record.Timeout {
			t.Errorf("got %s for the mint that lists, want %s", waited, record.Timeout)
		}
		time.Sleep(retryInterval)
		release := stall(s)
		start = time.Now()
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := node.Mint(gone, request("alice")); err != nil {
			t.Errorf("got error %v for a client that left, want none", err)
		}
		if waited := time.Since(start); waited != 0 {
			t.Errorf("got %s for a client that left, want 0", waited)
		}
		synctest.Wait()
		close(release)
		synctest.Wait()
		if age, err := node.ring.lastListing(); age != 0 || err != nil || s.Listed()-before != 2 {
			t.Errorf("got %d listings, the last %s ago with error %v, want 2, 0s and none", s.Listed()-before, age, err)
		}
	})
}

// TestKeyRingRepeatsLookup has a client ask for a key that was created after the
// listing under way had read the storage.
func TestKeyRingRepeatsLookup(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := recordtest.NewStorage(t)
		node := New(Config{Storage: s})
		mint(t, node, request("alice"))
		stranger := mint(t, New(Config{Storage: recordtest.NewStorage(t)}), request("alice")).Raw
		other := New(Config{Storage: s})
		s.Set(func() { s.Unlisted = true }) // so that other creates a key
		raw := mint(t, other, request("alice")).Raw
		file, before := defaultPrefix+"/"+keysOf(other)[0].name(), s.Listed()
		s.Set(func() {
			s.Unlisted = false
			s.Delayed[file] = true // for the first listing
			s.OnList = func(context.Context) {
				if s.Listed() == before+1 {
					time.Sleep(time.Second)
				} else {
					s.Set(func() { clear(s.Delayed) })
				}
			}
		})
		var group sync.WaitGroup
		group.Go(func() { refuse(t, node, stranger, ErrInvalidToken) })
		time.Sleep(time.Second / 2)
		accept(t, node, raw)
		group.Wait()
		if n := s.Listed() - before; n != 2 {
			t.Errorf("got %d listings, want 2", n)
		}
	})
}
