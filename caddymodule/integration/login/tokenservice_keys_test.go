package login

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestPublicKeys checks that the public keys, and only those, are published for
// others to verify tokens.
func TestPublicKeys(t *testing.T) {
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"))
	raw := s.Token("alice")
	a := s.Get("/jwt/keys").Expect(t, http.StatusOK, "").Has(t, "Content-Type", "application/jwk-set+json")
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal(a.Data, &set); err != nil || len(set.Keys) != 1 {
		t.Fatalf("got %s, error %v; want one key", a.Data, err)
	}
	key := set.Keys[0]
	if key["kty"] != "OKP" || key["crv"] != "Ed25519" || key["x"] == "" || key["d"] != "" {
		t.Errorf("got the key %v, want a public Ed25519 key", key)
	}
	head, err := base64.RawURLEncoding.DecodeString(strings.Split(raw, ".")[0])
	if err != nil || !strings.Contains(string(head), key["kid"]) {
		t.Errorf("got the token header %s, error %v; want kid %q", head, err, key["kid"])
	}
	sitetest.SameHeaders(t, a, s.Head("/jwt/keys"))
}

// TestKeysAreCreatedOnDemand checks that neither validating a configuration nor
// loading it creates a signing key before a token is requested.
func TestKeysAreCreatedOnDemand(t *testing.T) {
	s := sitetest.NewSite(t)
	lines := []string{sitetest.Users("alice"), sitetest.Private("acme", "alice")}
	if err := s.Validate(lines...); err != nil {
		t.Fatal(err)
	}
	if keys := s.KeyFiles(); len(keys) > 0 {
		t.Errorf("got the keys %v after validating, want none", keys)
	}
	s.Load(lines...)
	s.Get("/jwt/keys").Content(t, []byte(`{"keys":[]}`))
	s.Get("/v2/", sitetest.As("alice")).Expect(t, http.StatusOK, "")
	s.Get("/v2/", sitetest.Bearer("a.b.c")).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	if keys := s.KeyFiles(); len(keys) > 0 {
		t.Errorf("got the keys %v before any token, want none", keys)
	}
	first := s.Token("alice")
	s.Load(append(lines, "token {\n rotate 1d\n}")...)
	s.Get("/v2/", sitetest.Bearer(first)).Expect(t, http.StatusOK, "")
	s.Restart(lines...)
	s.Get("/v2/", sitetest.Bearer(first)).Expect(t, http.StatusOK, "")
	s.Token("alice")
	if keys := s.KeyFiles(); len(keys) != 1 {
		t.Errorf("got the keys %v, want one", keys)
	}
}

// TestKeyStorageOutage checks that the token service issues no tokens while its
// keys cannot be stored, and that logins without a token go on.
func TestKeyStorageOutage(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	s := sitetest.NewSite(t)
	keys := filepath.Join(s.Dir, "storage", filepath.Dir(sitetest.KeyPrefix))
	if err := os.MkdirAll(filepath.Dir(keys), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(keys, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Load(sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	s.Get(sitetest.Auth, sitetest.As("alice")).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE").Has(t, "Retry-After", "10").Has(t, "Cache-Control", "no-store")
	s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.As("alice")).Expect(t, http.StatusOK, "")
	if err := os.Remove(keys); err != nil {
		t.Fatal(err)
	}
	sitetest.Eventually(t, "tokens are given again", func() bool { return s.Get(sitetest.Auth, sitetest.As("alice")).StatusCode == http.StatusOK })
}
