package tokenissuer

import (
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/internal/record/recordtest"
)

func TestKeyRingCreatesFirstKeyOnMint(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	node := newNode(s, c, 0)
	if n := s.Listed(); n != 0 {
		t.Errorf("got %d listings by New, want 0", n)
	}
	jwks, err := node.JWKS(t.Context())
	if err != nil || string(jwks) != `{"keys":[]}` {
		t.Errorf("got key set %s, error %v, want an empty one", jwks, err)
	}
	stranger := mint(t, newNode(recordtest.NewStorage(t), c, 0), request("alice")).Raw
	refuse(t, node, stranger, ErrInvalidToken)
	if keys := s.Keys(); len(keys) != 0 {
		t.Fatalf("got keys %v before the first token, want none", keys)
	}
	accept(t, node, mint(t, node, request("alice")).Raw)
	if names := s.Keys(); len(names) != 1 || !strings.HasPrefix(names[0], "dependency_proxy/keys/20261123T123000.000Z-") {
		t.Errorf("got keys %v, want one of now", names)
	}
}

func TestJWKS(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	node := newNode(s, c, 0)
	mint(t, node, request("alice"))
	raw, err := newNode(s, c, 0).JWKS(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal(raw, &set); err != nil || len(set.Keys) != 1 {
		t.Fatalf("got key set %s, error %v, want one key", raw, err)
	}
	k := keysOf(node)[0]
	for member, want := range map[string]string{
		"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": k.kid, "x": b64.EncodeToString(k.public),
	} {
		if set.Keys[0][member] != want {
			t.Errorf("got %s %q, want %q", member, set.Keys[0][member], want)
		}
	}
	if len(set.Keys[0]) != 6 {
		t.Errorf("got %s, want only the six members of the public key", raw)
	}
}

// The key is the example in RFC 8037 appendix A.3.
func TestThumbprint(t *testing.T) {
	public, err := b64.DecodeString("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := thumbprint(public), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// TestKeyRingWithTwoFirstKeys has two nodes create a key each before they see
// the other's.
func TestKeyRingWithTwoFirstKeys(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	a, b := newNode(s, c, 0), newNode(s, c, 0)
	s.Unlisted = true
	byA, byB := mint(t, a, request("alice")).Raw, mint(t, b, request("alice")).Raw
	s.Unlisted = false
	if len(s.Keys()) != 2 {
		t.Fatalf("got keys %v, want 2", s.Keys())
	}
	accept(t, a, byB)
	accept(t, b, byA)
	for range 12 {
		c.Advance(refreshInterval)
		mint(t, a, request("alice"))
		mint(t, b, request("alice"))
		if byA, byB := signerOf(t, a), signerOf(t, b); byA != byB {
			t.Errorf("got signers %s and %s, want the same", byA, byB)
		}
	}
	if len(s.Keys()) != 2 {
		t.Errorf("got keys %v, want 2", s.Keys())
	}
}

// TestKeyRingWithDifferentSettings has two sites with different lifetimes share a
// storage. Neither deletes the keys that the other needs, nor signs with a key
// that expires before the token.
func TestKeyRingWithDifferentSettings(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	short := New(Config{Storage: s, Rotate: time.Hour, TokenLifetime: time.Hour, Now: c.Now})
	long := New(Config{Storage: s, Rotate: time.Hour, TokenLifetime: 30 * 24 * time.Hour, Now: c.Now})
	mint(t, short, request("alice"))
	r := request("alice")
	r.Lifetime, r.Use, r.Identity.AuthTime = 30*24*time.Hour, Refresh, c.Now().Unix()
	token := mint(t, long, r)
	for c.Advance(time.Hour); c.Now().Before(expiry(t, token.Raw)); c.Advance(6 * time.Hour) {
		mint(t, short, request("alice"))
		mint(t, long, request("alice"))
		if _, err := long.Verify(t.Context(), token.Raw, testIssuer, Refresh); err != nil {
			t.Fatalf("at %s: got error %v, want none", c.Now(), err)
		}
	}
}

// TestKeyRingIgnoresKeyFromTheFuture stores a key of a node whose clock is years
// ahead. Other nodes do not sign with it and continue to rotate.
func TestKeyRingIgnoresKeyFromTheFuture(t *testing.T) {
	s, c, ahead := recordtest.NewStorage(t), recordtest.NewClock(), recordtest.NewClock()
	node := newNode(s, c, 24*time.Hour)
	first := signerOf(t, node)
	ahead.Advance(5 * 365 * 24 * time.Hour)
	strange := newNode(recordtest.NewStorage(t), ahead, 24*time.Hour)
	mint(t, strange, request("alice"))
	k := keysOf(strange)[0]
	content, _ := k.encode()
	s.Files[defaultPrefix+"/"+k.name()] = content

	c.Advance(time.Hour)
	if got := signerOf(t, node); got != first {
		t.Errorf("got signer %s, want %s", got, first)
	}
	c.Advance(24 * time.Hour)
	mint(t, node, request("alice"))
	c.Advance(publishLead)
	if got := signerOf(t, node); got == first || got == k.kid {
		t.Errorf("got signer %s after the rotation, want a new key", got)
	}
}

func TestKeyRingConcurrentUse(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	nodes := []*Issuer{newNode(s, c, time.Hour), newNode(s, c, time.Hour), newNode(s, c, time.Hour)}
	var group sync.WaitGroup
	for w := range 12 {
		group.Go(func() {
			for n := range 60 {
				raw := mint(t, nodes[w%3], request("alice")).Raw
				// The first keys of all nodes may exceed the limit of lookups.
				_, err := nodes[(w+n)%3].Verify(t.Context(), raw, testIssuer, Access)
				if err != nil && !errors.Is(err, ErrInvalidToken) {
					t.Error(err)
				}
				if n > 3 && err != nil {
					t.Error(err)
				}
				if _, err := nodes[n%3].JWKS(t.Context()); err != nil {
					t.Error(err)
				}
				c.Advance(10 * time.Second / 12)
			}
		})
	}
	group.Wait()
	if keys := s.Keys(); len(keys) > 3 {
		t.Errorf("got keys %v, want at most one per node", keys)
	}
}
