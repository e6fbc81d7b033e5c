package tokenissuer

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/internal/record/recordtest"
)

// TestKeyRingRotation runs two nodes for months. After each step, each node
// verifies the tokens of both that are still valid, without a lookup for an
// unknown key. Expired keys are deleted.
func TestKeyRingRotation(t *testing.T) {
	const rotate = 30 * 24 * time.Hour
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
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
		c.Advance(d)
		for _, node := range nodes {
			token := mint(t, node, longest)
			valid = append(valid, issued{token.Raw, expiry(t, token.Raw)})
			kids[kidOf(t, token.Raw)] = true
		}
		valid = slices.DeleteFunc(valid, func(i issued) bool { return c.Now().After(i.until) })
		for _, node := range nodes {
			listings := s.Listed()
			for _, token := range valid {
				accept(t, node, token.raw)
			}
			if n := s.Listed() - listings; n != 0 && len(kids) > 1 {
				t.Errorf("at %s: got %d lookups, want 0", c.Now(), n)
			}
		}
	}
	end := c.Now().Add(100 * 24 * time.Hour)
	for c.Now().Before(end) {
		// Minutes around the rotations, hours otherwise.
		age := c.Now().Sub(newest(nodes[0]))
		if left := rotate - 10*time.Minute - age; left > 0 && age >= 20*time.Minute {
			step(min(left, 9*time.Hour))
		} else {
			step(time.Minute)
		}
	}
	if len(kids) < 3 || len(kids) > 5 {
		t.Errorf("got %d keys that signed, want 3 to 5", len(kids))
	}
	if n := len(s.Keys()); n > 2 {
		t.Errorf("got %d keys in the end, want at most 2", n)
	}
}

// newest returns the creation time of the newest key of i.
func newest(i *Issuer) time.Time {
	keys := keysOf(i)
	if len(keys) == 0 {
		return time.Time{}
	}
	return keys[len(keys)-1].created
}

func TestKeyRingPublishesKeyBeforeSigning(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	node := newNode(s, c, 24*time.Hour)
	old := signerOf(t, node)
	c.Advance(24 * time.Hour)
	if got := signerOf(t, node); got != old || len(s.Keys()) != 2 {
		t.Fatalf("got signer %s of %d keys, want %s of 2", got, len(s.Keys()), old)
	}
	jwks, err := node.JWKS(t.Context())
	if err != nil || strings.Count(string(jwks), `"kid"`) != 2 {
		t.Errorf("got key set %s, error %v, want two keys", jwks, err)
	}
	c.Advance(publishLead - time.Second)
	if got := signerOf(t, node); got != old {
		t.Errorf("got signer %s before the publish lead, want %s", got, old)
	}
	c.Advance(time.Second)
	if got := signerOf(t, node); got == old {
		t.Errorf("got signer %s after the publish lead, want the new key", got)
	}
}

// TestKeyRingAfterLongSilence checks that a new key signs at once if all older
// keys have expired.
func TestKeyRingAfterLongSilence(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	node := newNode(s, c, 24*time.Hour)
	raw := mint(t, node, request("alice")).Raw
	c.Advance(60 * 24 * time.Hour)
	other := newNode(s, c, 24*time.Hour)
	accept(t, other, mint(t, node, request("alice")).Raw)
	refuse(t, other, raw, ErrInvalidToken)
	c.Advance(refreshInterval)
	mint(t, node, request("alice"))
	if len(s.Keys()) != 1 {
		t.Errorf("got keys %v, want the expired one deleted", s.Keys())
	}
}

// TestKeyRingKeepsKeyForItsTokens checks that the last token that a key has
// signed is accepted until it expires.
func TestKeyRingKeepsKeyForItsTokens(t *testing.T) {
	const rotate = time.Hour
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	node := newNode(s, c, rotate)
	first := signerOf(t, node)
	long := request("alice")
	long.Lifetime = 12 * time.Hour
	var last Token
	for signerOf(t, node) == first {
		last = mint(t, node, long)
		c.Advance(time.Minute)
	}
	for c.Now().Before(expiry(t, last.Raw)) {
		accept(t, newNode(s, c, rotate), last.Raw)
		accept(t, node, last.Raw)
		c.Advance(30 * time.Minute)
		mint(t, node, request("alice"))
	}
}
