package tokenissuer

import (
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestFirstKeyIsMadeByTheFirstMint(t *testing.T) {
	s, c := newStorage(t), newClock()
	node := newNode(s, c, 0)
	if s.listed() != 0 {
		t.Error("making a ring touched storage")
	}
	jwks, err := node.JWKS(t.Context())
	if err != nil || string(jwks) != `{"keys":[]}` {
		t.Errorf("got %s, %v", jwks, err)
	}
	stranger := mint(t, newNode(newStorage(t), c, 0), request("alice")).Raw
	refuse(t, node, stranger, ErrInvalidToken)
	if len(s.names()) != 0 {
		t.Fatal("a key was made before a token")
	}
	accept(t, node, mint(t, node, request("alice")).Raw)
	if names := s.names(); len(names) != 1 || !strings.HasPrefix(names[0], "dependency_proxy/keys/20261123T120000.000Z-") {
		t.Errorf("got %v", names)
	}
}

func TestJWKS(t *testing.T) {
	s, c := newStorage(t), newClock()
	node := newNode(s, c, 0)
	mint(t, node, request("alice"))
	raw, err := newNode(s, c, 0).JWKS(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal(raw, &set); err != nil || len(set.Keys) != 1 {
		t.Fatalf("got %s, %v", raw, err)
	}
	k := node.ring.keys.Load().sorted[0]
	for member, want := range map[string]string{
		"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": k.kid, "x": b64.EncodeToString(k.public),
	} {
		if set.Keys[0][member] != want {
			t.Errorf("%s is %q, want %q", member, set.Keys[0][member], want)
		}
	}
	if len(set.Keys[0]) != 6 {
		t.Errorf("more than the public key: %s", raw)
	}
}

// The example of RFC 8037, appendix A.3.
func TestThumbprint(t *testing.T) {
	public, err := b64.DecodeString("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")
	if err != nil {
		t.Fatal(err)
	}
	if got := thumbprint(public); got != "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k" {
		t.Error(got)
	}
}

// TestTwoNodesAtOnce: each makes a key before it sees the other's.
func TestTwoNodesAtOnce(t *testing.T) {
	s, c := newStorage(t), newClock()
	a, b := newNode(s, c, 0), newNode(s, c, 0)
	s.hidden = true
	byA, byB := mint(t, a, request("alice")).Raw, mint(t, b, request("alice")).Raw
	s.hidden = false
	if len(s.names()) != 2 {
		t.Fatalf("%d keys", len(s.names()))
	}
	accept(t, a, byB)
	accept(t, b, byA)
	for range 12 {
		c.advance(RefreshInterval)
		mint(t, a, request("alice"))
		mint(t, b, request("alice"))
		if kidOf(t, a) != kidOf(t, b) {
			t.Error("the nodes sign with different keys")
		}
	}
	if len(s.names()) != 2 {
		t.Errorf("%d keys", len(s.names()))
	}
}

// kidOf is the key that i signs with now.
func kidOf(t *testing.T, i *Issuer) string {
	t.Helper()
	raw := mint(t, i, request("alice")).Raw
	header, err := b64.DecodeString(strings.Split(raw, ".")[0])
	if err != nil {
		t.Fatal(err)
	}
	var h struct{ Kid string }
	if err := json.Unmarshal(header, &h); err != nil {
		t.Fatal(err)
	}
	return h.Kid
}

// TestDifferentSettings: two sites with different lifetimes share a storage.
// Neither deletes the keys that the other needs, and neither signs with a key
// that ends before its token.
func TestDifferentSettings(t *testing.T) {
	s, c := newStorage(t), newClock()
	short := New(Config{KeyRing: NewKeyRing(KeyRingConfig{Storage: s, Rotate: time.Hour, TokenLifetime: time.Hour, Now: c.now})})
	long := New(Config{KeyRing: NewKeyRing(KeyRingConfig{Storage: s, Rotate: time.Hour, TokenLifetime: 30 * 24 * time.Hour, Now: c.now})})
	mint(t, short, request("alice"))
	r := request("alice")
	r.Lifetime, r.Use, r.Identity.AuthTime = 30*24*time.Hour, Refresh, c.now().Unix()
	token := mint(t, long, r)
	for c.advance(time.Hour); c.now().Before(token.ExpiresAt); c.advance(6 * time.Hour) {
		mint(t, short, request("alice"))
		mint(t, long, request("alice"))
		if _, err := long.Verify(t.Context(), token.Raw, testIssuer, Refresh); err != nil {
			t.Fatalf("%s: %v", c.now(), err)
		}
	}
}

// TestKeyFromTheFuture: a node whose clock is years ahead leaves a key. It
// signs nothing elsewhere and does not stop the rotation.
func TestKeyFromTheFuture(t *testing.T) {
	s, c, ahead := newStorage(t), newClock(), newClock()
	node := newNode(s, c, 24*time.Hour)
	first := kidOf(t, node)
	ahead.advance(5 * 365 * 24 * time.Hour)
	strange := newNode(newStorage(t), ahead, 24*time.Hour)
	mint(t, strange, request("alice"))
	k := strange.ring.keys.Load().sorted[0]
	content, _ := k.encode()
	s.files[strange.ring.path(k)] = content

	c.advance(time.Hour)
	if kidOf(t, node) != first {
		t.Error("signs with another key")
	}
	c.advance(24 * time.Hour)
	mint(t, node, request("alice"))
	c.advance(PublishLead)
	if kid := kidOf(t, node); kid == first || kid == k.kid {
		t.Error("does not rotate")
	}
}

func TestConcurrentUse(t *testing.T) {
	s, c := newStorage(t), newClock()
	nodes := []*Issuer{newNode(s, c, time.Hour), newNode(s, c, time.Hour), newNode(s, c, time.Hour)}
	var group sync.WaitGroup
	for w := range 12 {
		group.Go(func() {
			for n := range 60 {
				raw := mint(t, nodes[w%3], request("alice")).Raw
				// A burst of first keys may be more than the lookups allow.
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
				c.advance(10 * time.Second / 12)
			}
		})
	}
	group.Wait()
	if n := len(s.names()); n > 3 {
		t.Errorf("%d keys, though each node makes at most one", n)
	}
}
