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

// Issuer is an issuer of id tokens on the loopback, with a discovery document,
// keys that change, and faults.
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

func New(t testing.TB) *Issuer {
	t.Helper()
	i := new(Issuer)
	server := httptest.NewServer(i)
	t.Cleanup(server.Close)
	return i.begin(t, server.URL)
}

// NewAt returns an issuer that listens nowhere: its ServeHTTP is to be
// called.
func NewAt(t testing.TB, url string) *Issuer { return new(Issuer).begin(t, url) }

func (i *Issuer) begin(t testing.TB, url string) *Issuer {
	t.Helper()
	i.t, i.URL = t, url
	i.Rotate("one")
	return i
}

// Rotate signs with a new key from now on. The old ones stay published.
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

func (i *Issuer) KeysAsked() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.Asked
}

// Fail puts faults in the place of the documents, nil for none.
func (i *Issuer) Fail(found, keys http.HandlerFunc) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.found, i.fault = found, keys
}

// Says answers with a text and a status.
func Says(status int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(text))
	}
}

// Change alters the claims of a token, or its header.
type Change func(header map[string]any, claims jwt.MapClaims)

// Claim sets one, or takes it away.
func Claim(name string, value any) Change {
	return func(_ map[string]any, claims jwt.MapClaims) {
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
	}
}

// Ago is a time claim.
func Ago(d time.Duration) int64 { return time.Now().Add(-d).Unix() }

// Unsigned is a token such as a CI job of acme gets.
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

// Token is a signed one.
func (i *Issuer) Token(changes ...Change) string {
	i.t.Helper()
	return i.Sign(i.Unsigned(jwt.SigningMethodES256, changes...), i.Key)
}

func (i *Issuer) Sign(token *jwt.Token, key any) string {
	i.t.Helper()
	raw, err := token.SignedString(key)
	if err != nil {
		i.t.Fatal(err)
	}
	return raw
}

// Directory is the directive, with an audience and more lines.
func (i *Issuer) Directory(lines ...string) string {
	return "directory oidc " + i.URL + " {\n audience registry.example.com\n" + strings.Join(lines, "\n") + "\n}\n"
}
