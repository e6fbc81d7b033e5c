package login

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
)

// TestAnonymousToken checks that a client without a login gets a token only if
// there is a public group.
func TestAnonymousToken(t *testing.T) {
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Visible("tools", directory.Internal))
	s.Get(sitetest.Auth).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED").Has(t, "Cache-Control", "no-store").Has(t, "Content-Type", "application/json")
	s.Load(sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Visible("open", directory.Public))
	token := s.Get(sitetest.Auth).Expect(t, http.StatusOK, "").Tokens().Token
	s.Get("/v2/", sitetest.Bearer(token)).Content(t, []byte("{}"))
	// An anonymous token gives no access to a group that is no longer
	// public.
	s.Load(sitetest.Users("alice"), sitetest.Private("acme", "alice"))
	s.Get(sitetest.ManifestPath("open", "alpine", "3.20"), sitetest.Bearer(token)).Expect(t, http.StatusForbidden, "DENIED")
}

// TestForeignTokensRefused checks that only intact, unexpired tokens of this
// site are accepted.
func TestForeignTokensRefused(t *testing.T) {
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"))
	mint := func(storage, prefix string, now time.Time) string {
		issuer := tokenissuer.New(tokenissuer.Config{
			Storage: &certmagic.FileStorage{Path: storage}, Prefix: prefix, Now: func() time.Time { return now },
		})
		token, err := issuer.Mint(t.Context(), tokenissuer.MintRequest{
			Issuer: s.URL, Identity: tokenissuer.Identity{Name: "alice", Directory: "static"}, Lifetime: time.Minute, Use: tokenissuer.Access,
		})
		if err != nil {
			t.Fatal(err)
		}
		return token.Raw
	}
	expired := mint(s.Dir+"/storage", sitetest.KeyPrefix, time.Now().Add(-time.Hour))
	good := s.Token("alice") // signed with the same key, which already exists
	parts := strings.Split(good, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`))
	for name, token := range map[string]string{
		"garbage": "x", "empty": "", "signature cut off": parts[0] + "." + parts[1] + ".", "no signature": none + "." + parts[1] + ".",
		"other payload": parts[0] + "." + parts[1] + "x." + parts[2], "too long": good + strings.Repeat("x", 9000),
		"another's keys":  mint(t.TempDir(), sitetest.KeyPrefix, time.Now()),
		"expired":         expired,
		"no such account": mint(s.Dir+"/storage", sitetest.KeyPrefix, time.Now()), // with the version of the present account
	} {
		a := s.Get("/v2/", sitetest.Bearer(token)).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		if !strings.HasSuffix(a.Header.Get("WWW-Authenticate"), `,error="invalid_token"`) {
			t.Errorf("%s: got the challenge %q, want invalid_token at its end", name, a.Header.Get("WWW-Authenticate"))
		}
		if _, message := a.Problem(); strings.Contains(message, "expired") != (name == "expired") {
			t.Errorf("%s: got the message %q, want expired in it for an expired token only", name, message)
		}
	}
	s.Get("/v2/", sitetest.Bearer(good), sitetest.Host("other.example")).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	s.Get("/v2/", sitetest.Bearer(good)).Expect(t, http.StatusOK, "")
	s.Get("/v2/", sitetest.Header("Authorization", "bearer  "+good)).Expect(t, http.StatusOK, "")
}

// TestTokenFollowsAccount checks that the current state of an account decides
// about tokens issued before.
func TestTokenFollowsAccount(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", sitetest.Random(1, 1000))
	s := sitetest.Start(t, sitetest.Users("alice", "bob"), sitetest.Private("acme", "alice", "bob"), sitetest.Hub(up))
	token := s.Token("alice")
	paths := []string{sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.BlobPath("acme", "alpine", image.Layers[0])}
	expect := func(status int, code string) {
		t.Helper()
		for _, path := range paths {
			s.Get(path, sitetest.Bearer(token)).Expect(t, status, code)
		}
	}
	expect(http.StatusOK, "")
	s.Load(sitetest.Users("alice", "bob"), sitetest.Private("acme", "bob"), sitetest.Hub(up)) // no longer a member
	expect(http.StatusForbidden, "DENIED")
	s.Get("/v2/", sitetest.Bearer(token)).Expect(t, http.StatusOK, "")
	s.Load(sitetest.Users("alice", "bob"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	expect(http.StatusOK, "")
	s.Load(sitetest.Users("bob"), sitetest.Private("acme", "alice", "bob"), sitetest.Hub(up)) // no longer an account
	expect(http.StatusUnauthorized, "UNAUTHORIZED")
	s.Load("user alice "+sitetest.Hash("another-password"), sitetest.Private("acme", "alice"), sitetest.Hub(up)) // another password
	expect(http.StatusUnauthorized, "UNAUTHORIZED")
	s.Get(sitetest.Auth, sitetest.As("alice")).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	s.Load(sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up)) // as it was
	expect(http.StatusOK, "")
}
