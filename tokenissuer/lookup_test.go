package tokenissuer

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestLookupRate: forged kids by the thousand cause a handful of listings, and
// none of tokens that no key could make good.
func TestLookupRate(t *testing.T) {
	s, c := newStorage(t), newClock()
	node := newNode(s, c, 0)
	long := request("alice")
	long.Lifetime = 12 * time.Hour
	raw := mint(t, node, long).Raw
	before := s.listed()
	forged := func() string { return mint(t, newNode(newStorage(t), c, 0), request("alice")).Raw }
	count := func(n int) int {
		for range n {
			refuse(t, node, forged(), ErrInvalidToken)
			accept(t, node, raw)
		}
		defer func() { before = s.listed() }()
		return s.listed() - before
	}
	if n := count(200); n != listBurst {
		t.Errorf("%d listings, want %d", n, listBurst)
	}
	for range 5 {
		c.advance(listInterval)
		if n := count(20); n != 1 {
			t.Errorf("%d listings a second later, want 1", n)
		}
	}
	c.advance(time.Hour)
	if n := count(50); n != listBurst {
		t.Errorf("%d listings an hour later, want %d", n, listBurst)
	}
	c.advance(time.Hour)
	stale := forged()
	c.advance(time.Hour)
	refuse(t, node, stale, ErrInvalidToken)
	if s.listed() != before {
		t.Error("an expired token of nobody caused a listing")
	}
}

// TestLookupsAreShared: many requests with one new token cause one listing,
// and meanwhile known keys verify and sign without waiting.
func TestLookupsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStorage(t)
		node := New(Config{KeyRing: NewKeyRing(KeyRingConfig{Storage: s})})
		other := New(Config{KeyRing: NewKeyRing(KeyRingConfig{Storage: s})})
		s.hidden = true
		known := mint(t, node, request("alice")).Raw
		news := mint(t, other, request("alice")).Raw
		release := stall(s)
		before := s.listed()
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
			t.Errorf("a client that left: %v", err)
		}
		if time.Since(start) != 0 {
			t.Error("known keys waited for storage")
		}
		close(release)
		group.Wait()
		if n := s.listed() - before; n != 1 {
			t.Errorf("%d listings", n)
		}
	})
}

// stall makes the listings of s wait until the channel is closed.
func stall(s *memStorage) chan struct{} {
	release := make(chan struct{})
	s.set(func() {
		s.hidden = false
		s.listing = func(ctx context.Context) {
			select {
			case <-release:
			case <-ctx.Done():
			}
		}
	})
	return release
}

// TestHangingStorage: a storage that does not answer costs one mint five
// seconds, the others nothing, and its client may leave without harm.
func TestHangingStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStorage(t)
		node := New(Config{KeyRing: NewKeyRing(KeyRingConfig{Storage: s})})
		mint(t, node, request("alice"))
		time.Sleep(RefreshInterval)
		stall(s)
		start := time.Now()
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		var group sync.WaitGroup
		group.Go(func() {
			if _, err := node.Mint(gone, request("alice")); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		mint(t, node, request("alice"))
		if time.Since(start) != 0 {
			t.Error("another mint waited")
		}
		group.Wait()
		if time.Since(start) != storageTimeout {
			t.Errorf("waited %s", time.Since(start))
		}
	})
}
