package tokenissuer

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

func TestRoundTrip(t *testing.T) {
	s, c := newStorage(t), newClock()
	node := newNode(s, c, 0)
	for _, r := range []MintRequest{
		request("alice"),
		{Issuer: testIssuer, Identity: Identity{Name: "Ünal <&> \"x\""}, Lifetime: time.Minute, Use: Access},
		{Issuer: "http://localhost:8080", Identity: Identity{Name: "bob", Version: "v", AuthTime: c.now().Unix() - 1}, Lifetime: 12 * time.Hour, Use: Refresh},
		{Issuer: testIssuer, Identity: Identity{Anonymous: true}, Lifetime: time.Minute, Use: Access},
	} {
		token := mint(t, node, r)
		if r.Use == Refresh {
			r.Lifetime -= time.Second // which counts from the login
		}
		if !token.IssuedAt.Equal(c.now()) || token.ExpiresAt.Sub(token.IssuedAt) != r.Lifetime {
			t.Errorf("issued %s, expires %s", token.IssuedAt, token.ExpiresAt)
		}
		if len(token.Raw) >= 1024 {
			t.Errorf("%d bytes", len(token.Raw))
		}
		for range 2 { // the long way, then the short one
			id, err := node.Verify(t.Context(), token.Raw, r.Issuer, r.Use)
			if err != nil || id != r.Identity {
				t.Errorf("got %+v, %v; want %+v", id, err, r.Identity)
			}
		}
	}
}

func TestClaims(t *testing.T) {
	node := newNode(newStorage(t), newClock(), 0)
	payload := func(r MintRequest) map[string]any {
		part := strings.Split(mint(t, node, r).Raw, ".")[1]
		text, err := b64.DecodeString(part)
		if err != nil {
			t.Fatal(err)
		}
		var m map[string]any
		if err := json.Unmarshal(text, &m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	m := payload(request("alice"))
	for name, want := range map[string]any{
		"iss": testIssuer, "aud": "dependency_proxy", "sub": "alice", "user_id": "alice",
		"ver": "7", "dir": "static", "iat": 1795435200.0, "nbf": 1795435200.0, "exp": 1795436100.0,
	} {
		if m[name] != want {
			t.Errorf("%s is %v, want %v", name, m[name], want)
		}
	}
	if m["jti"] == payload(request("alice"))["jti"] || m["jti"] == "" {
		t.Error("jti does not tell tokens apart")
	}
	anonymous := payload(MintRequest{Issuer: testIssuer, Identity: Identity{Anonymous: true}, Lifetime: time.Minute, Use: Access})
	if sub, present := anonymous["sub"]; sub != "" || !present || anonymous["anonymous"] != true {
		t.Errorf("anonymous is %v", anonymous)
	}
}

func TestMintRefuses(t *testing.T) {
	s := newStorage(t)
	node := newNode(s, newClock(), 0)
	for name, change := range map[string]func(*MintRequest){
		"no use":                  func(r *MintRequest) { r.Use = 0 },
		"unknown use":             func(r *MintRequest) { r.Use = 9 },
		"no issuer":               func(r *MintRequest) { r.Issuer = "" },
		"long issuer":             func(r *MintRequest) { r.Issuer = strings.Repeat("x", 513) },
		"59 seconds":              func(r *MintRequest) { r.Lifetime = 59 * time.Second },
		"too long":                func(r *MintRequest) { r.Lifetime = 12*time.Hour + time.Second },
		"no identity":             func(r *MintRequest) { r.Identity = Identity{} },
		"named anonymous":         func(r *MintRequest) { r.Identity.Anonymous = true },
		"anonymous refresh":       func(r *MintRequest) { r.Identity, r.Use = Identity{Anonymous: true}, Refresh },
		"refresh without a login": func(r *MintRequest) { r.Use = Refresh },
		"refresh of tomorrow":     func(r *MintRequest) { r.Use, r.Identity.AuthTime = Refresh, newClock().now().Unix()+1 },
		"refresh of an old login": func(r *MintRequest) { r.Use, r.Identity.AuthTime = Refresh, newClock().now().Unix()-12*3600+59 },
		"not UTF-8":               func(r *MintRequest) { r.Identity.Name = "alice\xff" },
		"control character":       func(r *MintRequest) { r.Identity.Name = "alice\n" },
		"long name":               func(r *MintRequest) { r.Identity.Name = strings.Repeat("x", 256) },
		"long version":            func(r *MintRequest) { r.Identity.Version = strings.Repeat("x", 256) },
	} {
		r := request("alice")
		change(&r)
		token, err := node.Mint(t.Context(), r)
		if err == nil || token != (Token{}) || errors.Is(err, ErrKeysUnavailable) {
			t.Errorf("%s: got %v, %v", name, token, err)
		}
	}
	if len(s.names()) != 0 {
		t.Error("a refused request made a key")
	}
}

func TestExpiry(t *testing.T) {
	c := newClock()
	node := newNode(newStorage(t), c, 0)
	token := mint(t, node, request("alice"))
	accept(t, node, token.Raw)
	c.advance(15*time.Minute + 59*time.Second)
	accept(t, node, token.Raw)
	other := newNode(node.ring.storage, c, 0)
	accept(t, other, token.Raw)
	c.advance(time.Second)
	for _, i := range []*Issuer{node, other, newNode(node.ring.storage, c, 0)} {
		// A node that never saw the token may not have the key either, and
		// then it cannot know that the token was good once.
		i.ring.Refresh(t.Context())
		refuse(t, i, token.Raw, ErrTokenExpired)
		refuse(t, i, token.Raw, ErrInvalidToken)
	}
}

func TestNotYetValid(t *testing.T) {
	s, ahead, behind := newStorage(t), newClock(), newClock()
	ahead.advance(time.Minute)
	token := mint(t, newNode(s, ahead, 0), request("alice"))
	accept(t, newNode(s, behind, 0), token.Raw)

	ahead.advance(time.Second)
	late := mint(t, newNode(s, ahead, 0), request("alice"))
	refuse(t, newNode(s, behind, 0), late.Raw, ErrInvalidToken)
}

// TestCachedAnswersTheQuestion: the memory of a token answers for the issuer
// and use that it was verified for, and for nothing else.
func TestCachedAnswersTheQuestion(t *testing.T) {
	node := newNode(newStorage(t), newClock(), 0)
	raw := mint(t, node, request("alice")).Raw
	accept(t, node, raw)
	for range 2 {
		if id, err := node.Verify(t.Context(), raw, "https://other.example.com", Access); !errors.Is(err, ErrInvalidToken) || id != (Identity{}) {
			t.Errorf("other issuer: %v, %v", id, err)
		}
		if id, err := node.Verify(t.Context(), raw, testIssuer, Refresh); !errors.Is(err, ErrInvalidToken) || id != (Identity{}) {
			t.Errorf("other use: %v, %v", id, err)
		}
		accept(t, node, raw)
	}
}

func TestCacheIsBounded(t *testing.T) {
	c := newClock()
	node := New(Config{CacheSize: 32, KeyRing: NewKeyRing(KeyRingConfig{Storage: newStorage(t), Now: c.now})})
	first := mint(t, node, request("alice")).Raw
	accept(t, node, first)
	for range 300 {
		accept(t, node, mint(t, node, request("alice")).Raw)
	}
	entries := 0
	for _, shard := range node.verified {
		entries += shard.Len()
	}
	if entries > 32 {
		t.Errorf("%d entries", entries)
	}
	accept(t, node, first)
}

// TestRefreshTokensEnd: a refresh token ends with the longest lifetime after the
// login that it goes back to, however late it was made, and one that does not tell
// that login is none.
func TestRefreshTokensEnd(t *testing.T) {
	s, c := newStorage(t), newClock()
	node := newNode(s, c, 0)
	login := c.now()
	r := request("alice")
	r.Use, r.Lifetime, r.Identity.AuthTime = Refresh, 12*time.Hour, login.Unix()
	c.advance(11 * time.Hour)
	late := mint(t, node, r)
	if !late.ExpiresAt.Equal(login.Add(12 * time.Hour)) {
		t.Errorf("got a token until %s, want until %s", late.ExpiresAt, login.Add(12*time.Hour))
	}
	if id, err := node.Verify(t.Context(), late.Raw, testIssuer, Refresh); err != nil || id.AuthTime != login.Unix() {
		t.Errorf("got %+v, %v, want the time of the login", id, err)
	}
	k, err := node.ring.signer(t.Context(), late.ExpiresAt)
	if err != nil {
		t.Fatal(err)
	}
	for name, claims := range map[string]claims{
		"without a login": {AuthTime: 0, IssuedAt: c.now().Unix(), ExpiresAt: late.ExpiresAt.Unix()},
		"longer":          {AuthTime: login.Unix(), IssuedAt: c.now().Unix(), ExpiresAt: late.ExpiresAt.Unix() + 1},
		"of a later one":  {AuthTime: c.now().Unix() + 1, IssuedAt: c.now().Unix(), ExpiresAt: late.ExpiresAt.Unix()},
	} {
		claims.Issuer, claims.Audience, claims.Subject, claims.UserID = testIssuer, node.audienceOf(Refresh), "alice", "alice"
		claims.NotBefore = claims.IssuedAt
		token := jwt.NewWithClaims(jwt.SigningMethodEdDSA, &claims)
		token.Header["kid"] = k.kid
		raw, err := token.SignedString(k.private)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := node.Verify(t.Context(), raw, testIssuer, Refresh); !errors.Is(err, ErrInvalidToken) {
			t.Errorf("%s: got %v, want it refused", name, err)
		}
	}
}
