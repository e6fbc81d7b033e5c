package caddymodule

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
)

// TestAnonymousToken checks that a client without a login gets a token only if
// there is a public group.
func TestAnonymousToken(t *testing.T) {
	s := start(t, users("alice"), private("acme", "alice"), visible("tools", directory.Internal))
	s.get(auth).expect(t, http.StatusUnauthorized, "UNAUTHORIZED").has(t, "Cache-Control", "no-store").has(t, "Content-Type", "application/json")
	s.load(users("alice"), private("acme", "alice"), visible("open", directory.Public))
	token := s.get(auth).expect(t, http.StatusOK, "").tokens().Token
	s.get("/v2/", bearer(token)).content(t, []byte("{}"))
	// An anonymous token gives no access to a group that is no longer
	// public.
	s.load(users("alice"), private("acme", "alice"))
	s.get(manifestPath("open", "alpine", "3.20"), bearer(token)).expect(t, http.StatusForbidden, "DENIED")
}

// TestForeignTokensRefused checks that only intact, unexpired tokens of this
// site are accepted.
func TestForeignTokensRefused(t *testing.T) {
	s := start(t, users("alice"), private("acme", "alice"))
	mint := func(storage, prefix string, now time.Time) string {
		issuer := tokenissuer.New(tokenissuer.Config{
			Storage: &certmagic.FileStorage{Path: storage}, Prefix: prefix, Now: func() time.Time { return now },
		})
		token, err := issuer.Mint(t.Context(), tokenissuer.MintRequest{
			Issuer: s.url, Identity: tokenissuer.Identity{Name: "alice", Directory: "static"}, Lifetime: time.Minute, Use: tokenissuer.Access,
		})
		if err != nil {
			t.Fatal(err)
		}
		return token.Raw
	}
	expired := mint(s.dir+"/storage", keyPrefix, time.Now().Add(-time.Hour))
	good := s.token("alice") // signed with the same key, which already exists
	parts := strings.Split(good, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`))
	for name, token := range map[string]string{
		"garbage": "x", "empty": "", "signature cut off": parts[0] + "." + parts[1] + ".", "no signature": none + "." + parts[1] + ".",
		"other payload": parts[0] + "." + parts[1] + "x." + parts[2], "too long": good + strings.Repeat("x", 9000),
		"another's keys":  mint(t.TempDir(), keyPrefix, time.Now()),
		"expired":         expired,
		"no such account": mint(s.dir+"/storage", keyPrefix, time.Now()), // with the version of the present account
	} {
		a := s.get("/v2/", bearer(token)).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		if !strings.HasSuffix(a.Header.Get("WWW-Authenticate"), `,error="invalid_token"`) {
			t.Errorf("%s: got the challenge %q, want invalid_token at its end", name, a.Header.Get("WWW-Authenticate"))
		}
		if _, message := a.problem(); strings.Contains(message, "expired") != (name == "expired") {
			t.Errorf("%s: got the message %q, want expired in it for an expired token only", name, message)
		}
	}
	s.get("/v2/", bearer(good), host("other.example")).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	s.get("/v2/", bearer(good)).expect(t, http.StatusOK, "")
	s.get("/v2/", header("Authorization", "bearer  "+good)).expect(t, http.StatusOK, "")
}

// TestTokenFollowsAccount checks that the current state of an account decides
// about tokens issued before.
func TestTokenFollowsAccount(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", random(1, 1000))
	s := start(t, users("alice", "bob"), private("acme", "alice", "bob"), hub(up))
	token := s.token("alice")
	paths := []string{manifestPath("acme", "alpine", "3.20"), blobPath("acme", "alpine", image.Layers[0])}
	expect := func(status int, code string) {
		t.Helper()
		for _, path := range paths {
			s.get(path, bearer(token)).expect(t, status, code)
		}
	}
	expect(http.StatusOK, "")
	s.load(users("alice", "bob"), private("acme", "bob"), hub(up)) // no longer a member
	expect(http.StatusForbidden, "DENIED")
	s.get("/v2/", bearer(token)).expect(t, http.StatusOK, "")
	s.load(users("alice", "bob"), private("acme", "alice"), hub(up))
	expect(http.StatusOK, "")
	s.load(users("bob"), private("acme", "alice", "bob"), hub(up)) // no longer an account
	expect(http.StatusUnauthorized, "UNAUTHORIZED")
	s.load("user alice "+hash("another-password"), private("acme", "alice"), hub(up)) // another password
	expect(http.StatusUnauthorized, "UNAUTHORIZED")
	s.get(auth, as("alice")).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	s.load(users("alice"), private("acme", "alice"), hub(up)) // as it was
	expect(http.StatusOK, "")
}
