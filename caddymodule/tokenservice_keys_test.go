package caddymodule

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestPublicKeys checks that the public keys, and only those, are published for
// others to verify tokens.
func TestPublicKeys(t *testing.T) {
	s := start(t, users("alice"), private("acme", "alice"))
	raw := s.token("alice")
	a := s.get("/jwt/keys").expect(t, http.StatusOK, "").has(t, "Content-Type", "application/jwk-set+json")
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal(a.body, &set); err != nil || len(set.Keys) != 1 {
		t.Fatalf("got %s, error %v; want one key", a.body, err)
	}
	key := set.Keys[0]
	if key["kty"] != "OKP" || key["crv"] != "Ed25519" || key["x"] == "" || key["d"] != "" {
		t.Errorf("got the key %v, want a public Ed25519 key", key)
	}
	head, err := base64.RawURLEncoding.DecodeString(strings.Split(raw, ".")[0])
	if err != nil || !strings.Contains(string(head), key["kid"]) {
		t.Errorf("got the token header %s, error %v; want kid %q", head, err, key["kid"])
	}
	sameHeaders(t, a, s.head("/jwt/keys"))
}

// TestKeysAreCreatedOnDemand checks that neither validating a configuration nor
// loading it creates a signing key before a token is requested.
func TestKeysAreCreatedOnDemand(t *testing.T) {
	s := newSite(t)
	lines := []string{users("alice"), private("acme", "alice")}
	if err := s.validate(lines...); err != nil {
		t.Fatal(err)
	}
	if keys := s.keyFiles(); len(keys) > 0 {
		t.Errorf("got the keys %v after validating, want none", keys)
	}
	s.load(lines...)
	s.get("/jwt/keys").content(t, []byte(`{"keys":[]}`))
	s.get("/v2/", as("alice")).expect(t, http.StatusOK, "")
	s.get("/v2/", bearer("a.b.c")).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	if keys := s.keyFiles(); len(keys) > 0 {
		t.Errorf("got the keys %v before any token, want none", keys)
	}
	first := s.token("alice")
	s.load(append(lines, "token {\n rotate 1d\n}")...)
	s.get("/v2/", bearer(first)).expect(t, http.StatusOK, "")
	s.restart(lines...)
	s.get("/v2/", bearer(first)).expect(t, http.StatusOK, "")
	s.token("alice")
	if keys := s.keyFiles(); len(keys) != 1 {
		t.Errorf("got the keys %v, want one", keys)
	}
}

// TestKeyStorageOutage checks that the token service issues no tokens while its
// keys cannot be stored, and that logins without a token go on.
func TestKeyStorageOutage(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 100))
	s := newSite(t)
	keys := filepath.Join(s.dir, "storage", filepath.Dir(keyPrefix))
	if err := os.MkdirAll(filepath.Dir(keys), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(keys, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.load(users("alice"), private("acme", "alice"), hub(up))
	s.get(auth, as("alice")).expect(t, http.StatusServiceUnavailable, "UNAVAILABLE").has(t, "Retry-After", "10").has(t, "Cache-Control", "no-store")
	s.get(manifestPath("acme", "alpine", "3.20"), as("alice")).expect(t, http.StatusOK, "")
	if err := os.Remove(keys); err != nil {
		t.Fatal(err)
	}
	eventually(t, "tokens are given again", func() bool { return s.get(auth, as("alice")).StatusCode == http.StatusOK })
}
