package tokenissuer

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/internal/record/recordtest"
)

func TestMintAndVerify(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	node := newNode(s, c, 0)
	for _, r := range []MintRequest{
		request("alice"),
		{Issuer: testIssuer, Identity: Identity{Name: "Ünal <&> \"x\""}, Lifetime: time.Minute, Use: Access},
		{Issuer: "http://localhost:8080", Identity: Identity{Name: "bob", Version: "v", AuthTime: c.Now().Unix() - 1}, Lifetime: 12 * time.Hour, Use: Refresh},
		{Issuer: testIssuer, Identity: Identity{Anonymous: true}, Lifetime: time.Minute, Use: Access},
	} {
		token := mint(t, node, r)
		if r.Use == Refresh {
			r.Lifetime -= time.Second // the login was a second ago
		}
		if got := expiry(t, token.Raw).Sub(token.IssuedAt); !token.IssuedAt.Equal(c.Now()) || got != r.Lifetime {
			t.Errorf("got a token issued at %s for %s, want %s for %s", token.IssuedAt, got, c.Now(), r.Lifetime)
		}
		if len(token.Raw) >= 1024 {
			t.Errorf("got a token of %d bytes, want less than 1024", len(token.Raw))
		}
		for range 2 { // the second time from the cache
			id, err := node.Verify(t.Context(), token.Raw, r.Issuer, r.Use)
			if err != nil || id != r.Identity {
				t.Errorf("got identity %+v, error %v, want %+v", id, err, r.Identity)
			}
		}
	}
}

func TestMintClaims(t *testing.T) {
	node := newNode(recordtest.NewStorage(t), recordtest.NewClock(), 0)
	payload := func(r MintRequest) map[string]any {
		var m map[string]any
		part(t, mint(t, node, r).Raw, 1, &m)
		return m
	}
	m := payload(request("alice"))
	for name, want := range map[string]any{
		"iss": testIssuer, "aud": "dependency_proxy", "sub": "alice", "user_id": "alice",
		"ver": "7", "dir": "static", "iat": 1795437000.0, "nbf": 1795437000.0, "exp": 1795437900.0,
	} {
		if m[name] != want {
			t.Errorf("got %s %v, want %v", name, m[name], want)
		}
	}
	if m["jti"] == payload(request("alice"))["jti"] || m["jti"] == "" {
		t.Errorf("got jti %v twice, want unique ones", m["jti"])
	}
	anonymous := payload(MintRequest{Issuer: testIssuer, Identity: Identity{Anonymous: true}, Lifetime: time.Minute, Use: Access})
	if sub, present := anonymous["sub"]; sub != "" || !present || anonymous["anonymous"] != true {
		t.Errorf("got %v, want an empty sub and anonymous", anonymous)
	}
}

func TestMintRejectsInvalidRequests(t *testing.T) {
	s := recordtest.NewStorage(t)
	node := newNode(s, recordtest.NewClock(), 0)
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
		"refresh of tomorrow":     func(r *MintRequest) { r.Use, r.Identity.AuthTime = Refresh, recordtest.NewClock().Now().Unix()+1 },
		"refresh of an old login": func(r *MintRequest) {
			r.Use, r.Identity.AuthTime = Refresh, recordtest.NewClock().Now().Unix()-12*3600+59
		},
		"not UTF-8":         func(r *MintRequest) { r.Identity.Name = "alice\xff" },
		"control character": func(r *MintRequest) { r.Identity.Name = "alice\n" },
		"long name":         func(r *MintRequest) { r.Identity.Name = strings.Repeat("x", 256) },
		"long version":      func(r *MintRequest) { r.Identity.Version = strings.Repeat("x", 256) },
	} {
		r := request("alice")
		change(&r)
		token, err := node.Mint(t.Context(), r)
		if err == nil || token != (Token{}) || errors.Is(err, ErrKeysUnavailable) {
			t.Errorf("%s: got token %v, error %v, want an error about the request", name, token, err)
		}
	}
	if keys := s.Keys(); len(keys) != 0 {
		t.Errorf("got keys %v, want none", keys)
	}
}

func TestVerifyRejectsExpiredTokens(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	node := newNode(s, c, 0)
	token := mint(t, node, request("alice"))
	accept(t, node, token.Raw)
	c.Advance(15*time.Minute + 59*time.Second)
	accept(t, node, token.Raw)
	other := newNode(s, c, 0)
	accept(t, other, token.Raw)
	c.Advance(time.Second)
	for _, i := range []*Issuer{node, other, newNode(s, c, 0)} {
		// A node that does not know the key cannot tell that the token was
		// valid.
		relist(t, i)
		refuse(t, i, token.Raw, ErrTokenExpired)
		refuse(t, i, token.Raw, ErrInvalidToken)
	}
}

func TestVerifyRejectsTokensFromTheFuture(t *testing.T) {
	s, ahead, behind := recordtest.NewStorage(t), recordtest.NewClock(), recordtest.NewClock()
	ahead.Advance(time.Minute)
	token := mint(t, newNode(s, ahead, 0), request("alice"))
	accept(t, newNode(s, behind, 0), token.Raw)

	ahead.Advance(time.Second)
	late := mint(t, newNode(s, ahead, 0), request("alice"))
	refuse(t, newNode(s, behind, 0), late.Raw, ErrInvalidToken)
}

func TestVerifyCacheChecksIssuerAndUse(t *testing.T) {
	node := newNode(recordtest.NewStorage(t), recordtest.NewClock(), 0)
	raw := mint(t, node, request("alice")).Raw
	accept(t, node, raw)
	for range 2 {
		if id, err := node.Verify(t.Context(), raw, "https://other.example.com", Access); !errors.Is(err, ErrInvalidToken) || id != (Identity{}) {
			t.Errorf("other issuer: got identity %+v, error %v, want ErrInvalidToken", id, err)
		}
		if id, err := node.Verify(t.Context(), raw, testIssuer, Refresh); !errors.Is(err, ErrInvalidToken) || id != (Identity{}) {
			t.Errorf("other use: got identity %+v, error %v, want ErrInvalidToken", id, err)
		}
		accept(t, node, raw)
	}
}

func TestVerifyCacheIsBounded(t *testing.T) {
	c := recordtest.NewClock()
	node := newNode(recordtest.NewStorage(t), c, 0)
	const size = 8
	node.verified.Resize(size)
	first := mint(t, node, request("alice")).Raw
	accept(t, node, first)
	for range 10 * size {
		accept(t, node, mint(t, node, request("alice")).Raw)
	}
	if got := node.verified.Len(); got != size {
		t.Errorf("got %d remembered tokens, want %d", got, size)
	}
	accept(t, node, first)
}

// TestRefreshTokenExpiresAfterLogin checks that a refresh token expires one
// TokenLifetime after the login, however late it was minted, and that one without
// a login is rejected.
func TestRefreshTokenExpiresAfterLogin(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	node := newNode(s, c, 0)
	login := c.Now()
	r := request("alice")
	r.Use, r.Lifetime, r.Identity.AuthTime = Refresh, 12*time.Hour, login.Unix()
	c.Advance(11 * time.Hour)
	late, end := mint(t, node, r), login.Add(12*time.Hour)
	if got := expiry(t, late.Raw); !got.Equal(end) {
		t.Errorf("got a token until %s, want until %s", got, end)
	}
	if id, err := node.Verify(t.Context(), late.Raw, testIssuer, Refresh); err != nil || id.AuthTime != login.Unix() {
		t.Errorf("got identity %+v, error %v, want AuthTime %d", id, err, login.Unix())
	}
	k, err := node.ring.signer(t.Context(), end)
	if err != nil {
		t.Fatal(err)
	}
	for name, claims := range map[string]claims{
		"without a login": {AuthTime: 0, IssuedAt: c.Now().Unix(), ExpiresAt: end.Unix()},
		"longer":          {AuthTime: login.Unix(), IssuedAt: c.Now().Unix(), ExpiresAt: end.Unix() + 1},
		"of a later one":  {AuthTime: c.Now().Unix() + 1, IssuedAt: c.Now().Unix(), ExpiresAt: end.Unix()},
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
			t.Errorf("%s: got error %v, want ErrInvalidToken", name, err)
		}
	}
}
