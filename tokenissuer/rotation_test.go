package tokenissuer

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// TestRotation runs two nodes for months. At each step each verifies what the
// other just signed, and whatever is still valid, without any lookup for an
// unknown kid; dead keys go.
func TestRotation(t *testing.T) {
	const rotate = 30 * 24 * time.Hour
	s, c := newStorage(t), newClock()
	nodes := []*Issuer{newNode(s, c, rotate), newNode(s, c, rotate)}
	longest := request("alice")
	longest.Lifetime = 12 * time.Hour
	type issued struct {
		raw   string
		until time.Time
	}
	var valid []issued
	kids := map[string]bool{}
	step := func(d time.Duration) {
		c.advance(d)
		for _, node := range nodes {
			token := mint(t, node, longest)
			valid = append(valid, issued{token.Raw, token.ExpiresAt})
			kids[kidOf(t, node)] = true
		}
		valid = slices.DeleteFunc(valid, func(i issued) bool { return c.now().After(i.until) })
		for _, node := range nodes {
			lookups := node.ring.lookups.next
			for _, token := range valid {
				accept(t, node, token.raw)
			}
			if node.ring.lookups.next != lookups && len(kids) > 1 {
				t.Errorf("an unknown kid on %s", c.now())
			}
		}
	}
	end := c.now().Add(100 * 24 * time.Hour)
	for c.now().Before(end) {
		// By the minute around the rotations, else by hours.
		if age := c.now().Sub(nodes[0].ring.keys.Load().newest()); age > rotate-2*time.Hour || age < 20*time.Minute {
			step(time.Minute)
		} else {
			step(3 * time.Hour)
		}
	}
	if len(kids) < 3 || len(kids) > 5 {
		t.Errorf("%d keys have signed", len(kids))
	}
	if n := len(s.names()); n > 2 {
		t.Errorf("%d keys are left", n)
	}
}

// newest is when the newest key was made.
func (s *keySet) newest() time.Time {
	if len(s.sorted) == 0 {
		return time.Time{}
	}
	return s.sorted[len(s.sorted)-1].created
}

// TestNewKeyIsPublishedFirst: a successor is in the key set for a while before
// anything is signed with it.
func TestNewKeyIsPublishedFirst(t *testing.T) {
	s, c := newStorage(t), newClock()
	node := newNode(s, c, 24*time.Hour)
	old := kidOf(t, node)
	c.advance(24 * time.Hour)
	if kidOf(t, node) != old || len(s.names()) != 2 {
		t.Fatalf("signs at once, or %d keys", len(s.names()))
	}
	jwks, err := node.JWKS(t.Context())
	if err != nil || strings.Count(string(jwks), `"kid"`) != 2 {
		t.Errorf("got %s, %v", jwks, err)
	}
	c.advance(PublishLead - time.Second)
	if kidOf(t, node) != old {
		t.Error("signs too early")
	}
	c.advance(time.Second)
	if kidOf(t, node) == old {
		t.Error("does not sign")
	}
}

// TestLongSilence: there is no older key to sign with, so the new one does.
func TestLongSilence(t *testing.T) {
	s, c := newStorage(t), newClock()
	node := newNode(s, c, 24*time.Hour)
	raw := mint(t, node, request("alice")).Raw
	c.advance(60 * 24 * time.Hour)
	other := newNode(s, c, 24*time.Hour)
	accept(t, other, mint(t, node, request("alice")).Raw)
	refuse(t, other, raw, ErrInvalidToken)
	c.advance(RefreshInterval)
	mint(t, node, request("alice"))
	if len(s.names()) != 1 {
		t.Errorf("%d keys, want the dead one deleted", len(s.names()))
	}
}

// TestOldKeyOutlivesItsTokens: the last token of a key verifies to its end.
func TestOldKeyOutlivesItsTokens(t *testing.T) {
	const rotate = time.Hour
	s, c := newStorage(t), newClock()
	node := newNode(s, c, rotate)
	first := kidOf(t, node)
	long := request("alice")
	long.Lifetime = 12 * time.Hour
	var last Token
	for kidOf(t, node) == first {
		last = mint(t, node, long)
		c.advance(time.Minute)
	}
	for c.now().Before(last.ExpiresAt) {
		accept(t, newNode(s, c, rotate), last.Raw)
		accept(t, node, last.Raw)
		c.advance(30 * time.Minute)
		mint(t, node, request("alice"))
	}
}
