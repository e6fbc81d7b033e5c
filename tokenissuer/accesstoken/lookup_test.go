package accesstoken

import (
	"io/fs"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/internal/record/recordtest"
)

// TestStoreLimitsLookups checks that remembered tokens are not looked up,
// concurrent requests look a token up once, and lookups of unknown tokens are
// limited without rejecting valid ones.
func TestStoreLimitsLookups(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	node := newNode(s, c)
	_, secret := create(t, node, deploy, time.Hour)
	before := s.Loaded()
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() { accept(t, node, secret) })
	}
	all.Wait()
	if got := s.Loaded() - before; got != 2 { // the token and its revocation
		t.Errorf("got %d loads for one token, want 2", got)
	}
	accept(t, node, secret)
	before = s.Loaded()
	for range 100 {
		accept(t, node, secret)
	}
	if got := s.Loaded() - before; got != 0 {
		t.Errorf("got %d loads for a remembered token, want 0", got)
	}
	c.Advance(time.Second) // refills the limiter
	other := newNode(s, c)
	_, young := create(t, other, deploy, time.Hour)
	flood := func(n int) {
		t.Helper()
		for range n {
			refuse(t, node, newSecret(), fs.ErrNotExist)
		}
	}
	before, lists := s.Loaded(), s.Lists
	flood(1000)
	if got := s.Loaded() - before; got != lookupBurst || s.Lists-lists != 1 {
		t.Errorf("got %d loads and %d listings in a flood, want %d and 1", got, s.Lists-lists, lookupBurst)
	}
	accept(t, node, secret) // remembered
	accept(t, node, young)  // only listed
	_, younger := create(t, node, deploy, time.Hour)
	accept(t, node, younger)
	_, elsewhere := create(t, other, deploy, time.Hour)
	flood(1000)
	c.Advance(absentFor)
	flood(1000)
	accept(t, node, elsewhere)
	if s.Lists-lists != 3 { // one more after a token was created here, one when the list was too old
		t.Errorf("got %d listings, want 3", s.Lists-lists)
	}
	s.Set(func() { s.Err = recordtest.ErrAway })
	c.Advance(absentFor)
	for range 2 * lookupBurst {
		_, _ = node.Verify(t.Context(), newSecret())
	}
	refuse(t, node, newSecret(), ErrUnavailable)
}

// TestStoreRemembersAbsentTokens checks that an absent token is remembered for
// absentFor.
func TestStoreRemembersAbsentTokens(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	node, other := newNode(s, c), newNode(s, c)
	created, secret := create(t, other, deploy, time.Hour)
	s.Set(func() { s.Delayed[storedName(created.ID)] = true })
	refuse(t, node, secret, fs.ErrNotExist)
	before := s.Loaded()
	s.Set(func() { clear(s.Delayed) })
	c.Advance(absentFor - time.Second)
	refuse(t, node, secret, fs.ErrNotExist)
	if got := s.Loaded() - before; got != 0 {
		t.Errorf("got %d loads for an absent token, want 0", got)
	}
	c.Advance(time.Second)
	accept(t, node, secret)
}

// TestStoreClockSetBack checks that a clock that is set back does not make a
// remembered token outlive its revocation.
func TestStoreClockSetBack(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	node, other := newNode(s, c), newNode(s, c)
	created, secret := create(t, node, deploy, 100*time.Hour)
	c.Advance(50 * time.Hour)
	accept(t, other, secret)
	revoke(t, node, created.ID)
	c.Advance(-50 * time.Hour)
	refuse(t, other, secret, ErrRevoked)
}

// TestStoreRecordsLastUse checks that the use of valid tokens is recorded once an
// hour.
func TestStoreRecordsLastUse(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	node := newNode(s, c)
	created, secret := create(t, node, deploy, 24*time.Hour)
	lastUse := func() time.Time {
		tokens, err := node.List(t.Context())
		if err != nil || len(tokens) != 1 {
			t.Fatalf("got tokens %+v, error %v, want one token", tokens, err)
		}
		return tokens[0].LastUsed
	}
	if _, err := node.Peek(t.Context(), created.ID); err != nil || !lastUse().IsZero() {
		t.Errorf("got last use %s, error %v after Peek, want none", lastUse(), err)
	}
	for _, minutes := range []int{0, 1, 28, 1, 60, 3, 120} {
		c.Advance(time.Duration(minutes) * time.Minute)
		before := s.Stores
		changes := lastUse() != c.Now().Truncate(time.Hour)
		for range 5 {
			accept(t, node, secret)
			if _, err := node.Find(t.Context(), created.ID); err != nil {
				t.Error(err)
			}
		}
		if got := lastUse(); got != c.Now().Truncate(time.Hour) || s.Stores-before != map[bool]int{true: 1}[changes] {
			t.Errorf("at %s: got last use %s, %d records", c.Now(), got, s.Stores-before)
		}
	}
	last := lastUse()
	var reported []error
	node = New(Config{Storage: s, Now: c.Now, Hooks: Hooks{StorageError: func(err error) { reported = append(reported, err) }}})
	accept(t, node, secret)
	c.Advance(2 * time.Hour)
	_, _ = node.Peek(t.Context(), created.ID)
	s.Set(func() { s.Err = recordtest.ErrAway })
	accept(t, node, secret) // remembered; the use cannot be recorded
	s.Set(func() { s.Err = nil })
	if got := lastUse(); len(reported) != 1 || got != last {
		t.Errorf("got last use %s, reports %v, want %s and one report", got, reported, last)
	}
	c.Advance(24 * time.Hour)
	refuse(t, node, secret, ErrExpired)
	if got := lastUse(); got != last {
		t.Errorf("got last use %s after the token expired, want %s", got, last)
	}
}

// TestStoreDeletesExpiredTokens checks that tokens that expired a month ago are
// not listed, and are deleted with all their files when another is created.
func TestStoreDeletesExpiredTokens(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	node := newNode(s, c)
	for range 3 {
		created, secret := create(t, node, deploy, time.Hour)
		accept(t, node, secret)
		revoke(t, node, created.ID)
	}
	s.Set(func() { s.Files[prefix+"/README.json"] = []byte("not a token") })
	c.Advance(keepExpired)
	if tokens, err := node.List(t.Context()); err != nil || len(tokens) != 3 {
		t.Errorf("got %d tokens, error %v, want 3", len(tokens), err)
	}
	c.Advance(time.Hour)
	if tokens, err := node.List(t.Context()); err != nil || len(tokens) != 0 {
		t.Errorf("got %d tokens, error %v, want 0", len(tokens), err)
	}
	created, _ := create(t, node, deploy, time.Hour)
	if len(s.Files) != 2 || s.Files[storedName(created.ID)] == nil {
		t.Errorf("got files %v, want the new token and README.json", s.Keys())
	}
	for name := range s.Files {
		if strings.HasSuffix(name, ".revoked") || strings.HasSuffix(name, ".used") {
			t.Errorf("got %s, want it deleted", name)
		}
	}
}
