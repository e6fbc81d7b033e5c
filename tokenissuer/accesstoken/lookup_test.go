package accesstoken

import (
	"io/fs"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestLookups: what is known costs no look into storage, those who want the
// same look once, and strangers do not keep it busy.
func TestLookups(t *testing.T) {
	s, c := newStorage(t), newClock()
	node := newNode(s, c)
	_, secret := create(t, node, deploy, time.Hour)
	before := s.loaded()
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() { accept(t, node, secret) })
	}
	all.Wait()
	if got := s.loaded() - before; got != 2 { // the token and its grave
		t.Errorf("%d loads for one token", got)
	}
	accept(t, node, secret)
	before = s.loaded()
	for range 100 {
		accept(t, node, secret)
	}
	if got := s.loaded() - before; got != 0 {
		t.Errorf("%d loads for what is known", got)
	}
	c.advance(time.Second) // that one look is forgotten
	other := newNode(s, c)
	_, young := create(t, other, deploy, time.Hour)
	storm := func(n int) {
		t.Helper()
		for range n {
			refuse(t, node, newSecret(), fs.ErrNotExist)
		}
	}
	before, lists := s.loaded(), s.lists
	storm(1000)
	if got := s.loaded() - before; got != lookupBurst || s.lists-lists != 1 {
		t.Errorf("got %d loads and %d lists in a storm, want %d and 1", got, s.lists-lists, lookupBurst)
	}
	accept(t, node, secret) // known
	accept(t, node, young)  // used for the first time here
	_, younger := create(t, node, deploy, time.Hour)
	accept(t, node, younger)
	_, elsewhere := create(t, other, deploy, time.Hour)
	storm(1000)
	c.advance(AbsentFor)
	storm(1000)
	accept(t, node, elsewhere)
	if s.lists-lists != 3 { // one more after a token was made here, one after the time of a list
		t.Errorf("got %d lists, want 3", s.lists-lists)
	}
	s.set(func() { s.fail = errAway })
	c.advance(AbsentFor)
	for range 2 * lookupBurst {
		_, _ = node.Verify(t.Context(), newSecret())
	}
	refuse(t, node, newSecret(), ErrUnavailable)
}

// TestAbsent: that there is no such token is believed, and not for long.
func TestAbsent(t *testing.T) {
	s, c := newStorage(t), newClock()
	node, other := newNode(s, c), newNode(s, c)
	made, secret := create(t, other, deploy, time.Hour)
	s.set(func() { s.lagging[other.file(made.ID)] = true })
	refuse(t, node, secret, fs.ErrNotExist)
	before := s.loaded()
	s.set(func() { clear(s.lagging) })
	c.advance(AbsentFor - time.Second)
	refuse(t, node, secret, fs.ErrNotExist)
	if s.loaded() != before {
		t.Error("storage was asked again")
	}
	c.advance(time.Second)
	accept(t, node, secret)
}

// TestClockBack: a clock that was ahead and is put right opens nothing.
func TestClockBack(t *testing.T) {
	s, c := newStorage(t), newClock()
	node, other := newNode(s, c), newNode(s, c)
	made, secret := create(t, node, deploy, 100*time.Hour)
	c.advance(50 * time.Hour)
	accept(t, other, secret)
	if _, err := node.Revoke(t.Context(), made.ID, ""); err != nil {
		t.Fatal(err)
	}
	c.advance(-50 * time.Hour)
	refuse(t, other, secret, ErrRevoked)
}

// TestLastUse: recorded once an hour, in a file of its own, and only for what
// was let in.
func TestLastUse(t *testing.T) {
	s, c := newStorage(t), newClock()
	node := newNode(s, c)
	made, secret := create(t, node, deploy, 24*time.Hour)
	lastUse := func() time.Time {
		tokens, err := node.List(t.Context())
		if err != nil || len(tokens) != 1 {
			t.Fatalf("%+v, %v", tokens, err)
		}
		return tokens[0].LastUsed
	}
	if _, err := node.Peek(t.Context(), made.ID); err != nil || !lastUse().IsZero() {
		t.Errorf("used %s, %v", lastUse(), err)
	}
	for _, minutes := range []int{0, 1, 28, 1, 60, 3, 120} {
		c.advance(time.Duration(minutes) * time.Minute)
		before := s.stores
		changes := lastUse() != c.now().Truncate(time.Hour)
		for range 5 {
			accept(t, node, secret)
			if _, err := node.Find(t.Context(), made.ID); err != nil {
				t.Error(err)
			}
		}
		if got := lastUse(); got != c.now().Truncate(time.Hour) || s.stores-before != map[bool]int{true: 1}[changes] {
			t.Errorf("%s: used %s, %d records", c.now(), got, s.stores-before)
		}
	}
	last := lastUse()
	var trouble []error
	node = New(Config{Storage: s, Now: c.now, Hooks: Hooks{StorageError: func(err error) { trouble = append(trouble, err) }}})
	accept(t, node, secret)
	c.advance(2 * time.Hour)
	_, _ = node.Peek(t.Context(), made.ID)
	s.set(func() { s.fail = errAway })
	accept(t, node, secret) // it is known, and no record keeps it out
	s.set(func() { s.fail = nil })
	if got := lastUse(); len(trouble) != 1 || got != last {
		t.Errorf("used %s, %v", got, trouble)
	}
	c.advance(24 * time.Hour)
	refuse(t, node, secret, ErrExpired)
	if got := lastUse(); got != last {
		t.Errorf("used %s after its time", got)
	}
}

// TestTidy: what has been dead for a month is not listed, and goes when another
// token is made, with all that was beside it.
func TestTidy(t *testing.T) {
	s, c := newStorage(t), newClock()
	node := newNode(s, c)
	for range 3 {
		made, secret := create(t, node, deploy, time.Hour)
		accept(t, node, secret)
		if _, err := node.Revoke(t.Context(), made.ID, ""); err != nil {
			t.Fatal(err)
		}
	}
	s.set(func() { s.files[DefaultPrefix+"/README.json"] = []byte("not ours") })
	c.advance(keepDead)
	if tokens, err := node.List(t.Context()); err != nil || len(tokens) != 3 {
		t.Errorf("%d tokens, %v", len(tokens), err)
	}
	c.advance(time.Hour)
	if tokens, err := node.List(t.Context()); err != nil || len(tokens) != 0 {
		t.Errorf("%d tokens, %v", len(tokens), err)
	}
	made, _ := create(t, node, deploy, time.Hour)
	if len(s.files) != 2 || s.files[node.file(made.ID)] == nil {
		t.Errorf("left: %d files", len(s.files))
	}
	for name := range s.files {
		if strings.HasSuffix(name, ".revoked") || strings.HasSuffix(name, ".used") {
			t.Errorf("%s is left", name)
		}
	}
}
