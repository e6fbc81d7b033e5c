package login

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestAuthenticationDirectory checks that an authentication provider checks
// logins, that the groups it reports apply, and that nothing it writes reaches
// the client.
func TestAuthenticationDirectory(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	a := func(lines string) string {
		return "directory authentication {\n provider scribbler on\n" + lines + "\n}\n"
	}
	rest := []string{sitetest.Private("acme"), sitetest.Private("acme/platform"), sitetest.Private("tools"), sitetest.Private("other", "authentication:zoe"), sitetest.Private("secret", "static:alice"), sitetest.Hub(up), "token {\n refresh_tokens on\n}"}
	load := func(directories string) []string { return append([]string{directories}, rest...) }
	s := sitetest.Start(t, load(sitetest.Users("alice")+a("groups teams"))...)
	s.AddSecrets(sitetest.PasswordOf("scribbler"))
	as := func(name string) sitetest.RequestOption {
		return func(r *http.Request) { r.SetBasicAuth(name, sitetest.PasswordOf("scribbler")) }
	}
	clean := func(a sitetest.Answer) sitetest.Answer {
		t.Helper()
		if text := string(a.Data); strings.Contains(text, "scribble") || strings.Contains(a.Header.Get("WWW-Authenticate"), "scribble") || a.Header.Get("Set-Cookie")+a.Header.Get("Location") != "" {
			t.Errorf("got the response of the provider, want none of it: %v %s", a.Header, text)
		}
		return a
	}
	tokens := clean(s.Get(sitetest.Auth+"&offline_token=true", as("zoe"))).Expect(t, http.StatusOK, "").Tokens()
	posted := clean(s.Get("/jwt/auth", sitetest.Form(sitetest.LoginForm("zoe", sitetest.PasswordOf("scribbler"))))).Expect(t, http.StatusOK, "").Tokens()
	if body := sitetest.ScribblerBody.Load(); body != "" {
		t.Errorf("the provider got the body %q, want none", body)
	}
	if heard := sitetest.ScribblerHeard.Load(); heard != "zoe" {
		t.Errorf("the provider got the name %q, want another", heard)
	}
	// The provider does not get the name of a configured account.
	clean(s.Get("/jwt/auth", sitetest.Form(sitetest.LoginForm("alice", sitetest.PasswordOf("scribbler"))))).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	if heard := sitetest.ScribblerHeard.Load().(string); !strings.HasPrefix(heard, "nobody-") || strings.Contains(heard, "alice") {
		t.Errorf("the provider got the name %q, want another", heard)
	}
	refresh := sitetest.Form(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {tokens.RefreshToken}})
	refreshed := s.Get("/jwt/auth", refresh).Expect(t, http.StatusOK, "").Tokens()
	for _, who := range []sitetest.RequestOption{as("zoe"), sitetest.Bearer(tokens.Token), sitetest.Bearer(posted.Token), sitetest.Bearer(refreshed.Token)} {
		for group, status := range map[string]int{"acme": 200, "acme/platform": 200, "tools": 200, "other": 200, "secret": 403, "x": 403} {
			if a := clean(s.Get(sitetest.ManifestPath(group, "alpine", "3.20"), who)); a.StatusCode != status {
				t.Errorf("%s: got status %d, want %d", group, a.StatusCode, status)
			}
		}
	}
	clean(s.Get("/v2/", func(r *http.Request) { r.SetBasicAuth("zoe", "wrong") })).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	clean(s.Get(sitetest.Auth, func(r *http.Request) { r.SetBasicAuth("zoe", "broken") })).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	clean(s.Get(sitetest.Auth, as("many"))).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	clean(s.Get(sitetest.Auth, as("empty"))).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	clean(s.Get("/jwt/auth", sitetest.Form(sitetest.LoginForm("zoe:x", sitetest.PasswordOf("scribbler"))))).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	// The provider returns the name of the configured account alice.
	clean(s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), as("Alice"))).Expect(t, http.StatusOK, "")
	clean(s.Get(sitetest.ManifestPath("secret", "alpine", "3.20"), as("Alice"))).Expect(t, http.StatusForbidden, "DENIED")
	if logs := s.Logs(); !strings.Contains(logs, `"account":"alice","directory":"authentication"`) || !strings.Contains(logs, "broken its pen") || !strings.Contains(logs, "longer than 1024") {
		t.Error("the log lacks the account or the reasons of the failures")
	}
	s.Load(load(sitetest.Users("alice") + a(""))...)
	clean(s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), as("zoe"))).Expect(t, http.StatusForbidden, "DENIED")
	clean(s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.Bearer(tokens.Token))).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED") // its groups no longer count
	s.Load(load(sitetest.Users("alice") + "directory authentication {\n provider scribbler off\n groups teams\n}\n")...)
	s.Get("/v2/", sitetest.Bearer(tokens.Token)).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED") // issued with another provider
}
