// Package oidctest provides an issuer of id tokens for tests, with a discovery document
// and a key set (OpenID Connect Discovery 1.0).
//
// [New] starts an issuer on the loopback interface that ends with the test; [NewAt] returns
// one without a listener, for tests with a fake clock. Token returns a signed id token, as
// a CI job would get it, with changes; Rotate replaces the signing key; Fail replaces the
// responses.
package oidctest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/golang-jwt/jwt/v5"
)

// Issuer is an issuer of id tokens.
type Issuer struct {
	t   testing.TB
	URL string

	mu     sync.Mutex
	kid    string
	Key    *ecdsa.PrivateKey
	Public []jose.JSONWebKey
	fault  http.HandlerFunc // in the place of the key set
	found  http.HandlerFunc // in the place of the discovery document
	Asked  int              // for keys
}

// New starts an issuer. Its first key has the id one.
func New(t testing.TB) *Issuer {
	t.Helper()
	i := new(Issuer)
	server := httptest.NewServer(i)
	t.Cleanup(server.Close)
	return i.begin(t, server.URL)
}

// NewAt returns an issuer without a listener. The test calls its ServeHTTP.
func NewAt(t testing.TB, url string) *Issuer { return new(Issuer).begin(t, url) }

func (i *Issuer) begin(t testing.TB, url string) *Issuer {
	t.Helper()
	i.t, i.URL = t, url
	i.Rotate("one")
	return i
}

// Rotate makes a new signing key with an id. The earlier keys stay published.
func (i *Issuer) Rotate(kid string) {
	i.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		i.t.Fatal(err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.kid, i.Key = kid, key
	i.Public = append(i.Public, jose.JSONWebKey{Key: key.Public(), KeyID: kid, Algorithm: "ES256", Use: "sig"})
}

// ServeHTTP implements [http.Handler].
func (i *Issuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	var answer any
	switch {
	case r.URL.Path == "/.well-known/openid-configuration" && i.found != nil:
		i.found(w, r)
		return
	case r.URL.Path == "/.well-known/openid-configuration":
		answer = map[string]any{"issuer": i.URL, "jwks_uri": i.URL + "/keys", "id_token_signing_alg_values_supported": []string{"ES256", "HS256", "none"}}
	case r.URL.Path == "/keys" && i.fault != nil:
		i.Asked++
		i.fault(w, r)
		return
	case r.URL.Path == "/keys":
		i.Asked++
		answer = jose.JSONWebKeySet{Keys: i.Public}
	default:
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

// KeysAsked returns the number of requests for the key set.
func (i *Issuer) KeysAsked() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.Asked
}

// Fail replaces the discovery document and the key set, unless the handlers are nil.
func (i *Issuer) Fail(found, keys http.HandlerFunc) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.found, i.fault = found, keys
}

// Says returns a handler that sends a status and a text as JSON.
func Says(status int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(text))
	}
}

// Change changes the header or the claims of a token.
type Change func(header map[string]any, claims jwt.MapClaims)

// Claim returns a Change that sets a claim, or removes it if the value is nil.
func Claim(name string, value any) Change {
	return func(_ map[string]any, claims jwt.MapClaims) {
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
	}
}

// Ago returns the time a duration ago in Unix seconds, as in a claim.
func Ago(d time.Duration) int64 { return time.Now().Add(-d).Unix() }

// Unsigned returns a token that a CI job of acme might get, without a signature.
func (i *Issuer) Unsigned(method jwt.SigningMethod, changes ...Change) *jwt.Token {
	token := jwt.NewWithClaims(method, jwt.MapClaims{
		"iss": i.URL, "aud": "registry.example.com", "sub": "repo:acme/app:ref:refs/heads/main",
		"iat": Ago(0), "nbf": Ago(5 * time.Minute), "exp": Ago(-5 * time.Minute), "jti": "f0c1",
		"repository": "acme/app", "repository_owner": "acme", "ref": "refs/heads/main", "run_attempt": 1,
		"groups": []string{"everyone", "team/platform"},
	})
	token.Header["kid"] = i.kid
	for _, change := range changes {
		change(token.Header, token.Claims.(jwt.MapClaims))
	}
	return token
}

// Token returns such a token with a signature by the current key.
func (i *Issuer) Token(changes ...Change) string {
	i.t.Helper()
	return i.Sign(i.Unsigned(jwt.SigningMethodES256, changes...), i.Key)
}

// Sign returns a token signed with a key.
func (i *Issuer) Sign(token *jwt.Token, key any) string {
	i.t.Helper()
	raw, err := token.SignedString(key)
	if err != nil {
		i.t.Fatal(err)
	}
	return raw
}

// Directory returns a `directory oidc` block for the issuer, with an audience and further
// lines.
func (i *Issuer) Directory(lines ...string) string {
	return "directory oidc " + i.URL + " {\n audience registry.example.com\n" + strings.Join(lines, "\n") + "\n}\n"
}
