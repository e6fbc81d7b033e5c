package caddymodule

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

// idIssuer is an issuer of id tokens on the loopback, with a discovery document,
// keys that change, and faults.
type idIssuer struct {
	t   testing.TB
	url string

	mu     sync.Mutex
	kid    string
	key    *ecdsa.PrivateKey
	public []jose.JSONWebKey
	fault  http.HandlerFunc // in the place of the key set
	found  http.HandlerFunc // in the place of the discovery document
	asked  int              // for keys
}

func newIDIssuer(t testing.TB) *idIssuer {
	t.Helper()
	i := new(idIssuer)
	server := httptest.NewServer(i)
	t.Cleanup(server.Close)
	return i.begin(t, server.URL)
}

// newIDIssuerAt returns an issuer that listens nowhere: its ServeHTTP is to be
// called.
func newIDIssuerAt(t testing.TB, url string) *idIssuer { return new(idIssuer).begin(t, url) }

func (i *idIssuer) begin(t testing.TB, url string) *idIssuer {
	t.Helper()
	i.t, i.url = t, url
	i.rotate("one")
	return i
}

// rotate signs with a new key from now on. The old ones stay published.
func (i *idIssuer) rotate(kid string) {
	i.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		i.t.Fatal(err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.kid, i.key = kid, key
	i.public = append(i.public, jose.JSONWebKey{Key: key.Public(), KeyID: kid, Algorithm: "ES256", Use: "sig"})
}

func (i *idIssuer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	var answer any
	switch {
	case r.URL.Path == "/.well-known/openid-configuration" && i.found != nil:
		i.found(w, r)
		return
	case r.URL.Path == "/.well-known/openid-configuration":
		answer = map[string]any{"issuer": i.url, "jwks_uri": i.url + "/keys", "id_token_signing_alg_values_supported": []string{"ES256", "HS256", "none"}}
	case r.URL.Path == "/keys" && i.fault != nil:
		i.asked++
		i.fault(w, r)
		return
	case r.URL.Path == "/keys":
		i.asked++
		answer = jose.JSONWebKeySet{Keys: i.public}
	default:
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

func (i *idIssuer) keysAsked() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.asked
}

// fail puts faults in the place of the documents, nil for none.
func (i *idIssuer) fail(found, keys http.HandlerFunc) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.found, i.fault = found, keys
}

// says answers with a text and a status.
func says(status int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = w.Write([]byte(text))
	}
}

// change alters the claims of a token, or its header.
type change func(header map[string]any, claims jwt.MapClaims)

// claim sets one, or takes it away.
func claim(name string, value any) change {
	return func(_ map[string]any, claims jwt.MapClaims) {
		if claims[name] = value; value == nil {
			delete(claims, name)
		}
	}
}

// ago is a time claim.
func ago(d time.Duration) int64 { return time.Now().Add(-d).Unix() }

// unsigned is a token such as a CI job of acme gets.
func (i *idIssuer) unsigned(method jwt.SigningMethod, changes ...change) *jwt.Token {
	token := jwt.NewWithClaims(method, jwt.MapClaims{
		"iss": i.url, "aud": "registry.example.com", "sub": "repo:acme/app:ref:refs/heads/main",
		"iat": ago(0), "nbf": ago(5 * time.Minute), "exp": ago(-5 * time.Minute), "jti": "f0c1",
		"repository": "acme/app", "repository_owner": "acme", "ref": "refs/heads/main", "run_attempt": 1,
		"groups": []string{"everyone", "team/platform"},
	})
	token.Header["kid"] = i.kid
	for _, change := range changes {
		change(token.Header, token.Claims.(jwt.MapClaims))
	}
	return token
}

// token is a signed one.
func (i *idIssuer) token(changes ...change) string {
	i.t.Helper()
	return i.sign(i.unsigned(jwt.SigningMethodES256, changes...), i.key)
}

func (i *idIssuer) sign(token *jwt.Token, key any) string {
	i.t.Helper()
	raw, err := token.SignedString(key)
	if err != nil {
		i.t.Fatal(err)
	}
	return raw
}

// directory is the directive, with an audience and more lines.
func (i *idIssuer) directory(lines ...string) string {
	return "directory oidc " + i.url + " {\n audience registry.example.com\n" + strings.Join(lines, "\n") + "\n}\n"
}

// idToken logs in with an id token.
func idToken(raw string) with {
	return func(r *http.Request) { r.SetBasicAuth("ci", raw) }
}
