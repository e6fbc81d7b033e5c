package login

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestDirectoryOutage checks that logins and tokens issued before are answered
// with 503 while their directory cannot answer.
func TestDirectoryOutage(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	s := sitetest.Start(t, "directory elsewhere", sitetest.Private("acme", "zoe"), sitetest.Visible("open", directory.Public), sitetest.Hub(up), "token {\n refresh_tokens on\n}")
	s.AddSecrets(sitetest.PasswordOf("elsewhere"))
	zoe := func(r *http.Request) { r.SetBasicAuth("zoe", sitetest.PasswordOf("elsewhere")) }
	path := sitetest.ManifestPath("acme", "alpine", "3.20")
	tokens := s.Get(sitetest.Auth+"&offline_token=true", zoe).Expect(t, http.StatusOK, "").Tokens()
	token := tokens.Token
	s.Get(path, sitetest.Bearer(token)).Expect(t, http.StatusOK, "")

	sitetest.ElsewhereAway.Store(true)
	defer sitetest.ElsewhereAway.Store(false)
	for _, a := range []sitetest.Answer{
		s.Get(sitetest.Auth, zoe), s.Get("/jwt/auth", sitetest.Form(sitetest.LoginForm("zoe", sitetest.PasswordOf("elsewhere")))), s.Get("/v2/", zoe),
		s.Get("/jwt/auth", sitetest.Form(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {tokens.RefreshToken}})),
		s.Get("/v2/", sitetest.Bearer(token)), s.Get(path, sitetest.Bearer(token)), s.Get(path, zoe), s.Get(sitetest.ManifestPath("open", "alpine", "3.20"), sitetest.Bearer(token)),
	} {
		a.Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE").Has(t, "Retry-After", "10").Has(t, "WWW-Authenticate", "")
		if _, message := a.Problem(); strings.Contains(message, "away") {
			t.Errorf("got the message %q, want none of the directory's error", message)
		}
	}
	if !strings.Contains(s.Logs(), "the directory is away") {
		t.Error("the log lacks \"the directory is away\"")
	}
	// An anonymous caller needs no directory.
	s.Get(sitetest.ManifestPath("open", "alpine", "3.20"), sitetest.Bearer(s.Get(sitetest.Auth).Tokens().Token)).Expect(t, http.StatusOK, "")
	sitetest.ElsewhereAway.Store(false)
	s.Get(path, sitetest.Bearer(token)).Expect(t, http.StatusOK, "")
}

// TestDirectoryOrder checks that directories are asked in order, and that the
// first one that knows an account decides.
func TestDirectoryOrder(t *testing.T) {
	s := sitetest.Start(t, sitetest.Users("alice"), "directory elsewhere", sitetest.Private("acme", "alice", "elsewhere:zoe"))
	s.AddSecrets(sitetest.PasswordOf("elsewhere"))
	login := func(name, password string, status int, asked int32) {
		t.Helper()
		sitetest.ElsewhereAsked.Store(0)
		a := s.Get("/jwt/auth", sitetest.Form(sitetest.LoginForm(name, password)))
		if a.StatusCode != status || sitetest.ElsewhereAsked.Load() != asked {
			t.Errorf("%s: got %d and %d questions to the second directory, want %d and %d", name, a.StatusCode, sitetest.ElsewhereAsked.Load(), status, asked)
		}
	}
	login("alice", sitetest.PasswordOf("alice"), 200, 0)
	login("alice", sitetest.PasswordOf("elsewhere"), 401, 1) // asked with an invented name, not about another alice
	if heard := sitetest.ElsewhereHeard.Load().(string); !strings.HasPrefix(heard, "nobody-") || strings.Contains(heard, sitetest.PasswordOf("elsewhere")) {
		t.Errorf("the second directory got %q, want neither the name nor the password", heard)
	}
	login("zoe", sitetest.PasswordOf("elsewhere"), 200, 1)
	login("zoe", "wrong", 401, 1)
	login("nobody", sitetest.PasswordOf("elsewhere"), 401, 1)
	sitetest.ElsewhereAway.Store(true)
	defer sitetest.ElsewhereAway.Store(false)
	login("alice", sitetest.PasswordOf("alice"), 200, 0)
	login("zoe", sitetest.PasswordOf("elsewhere"), 503, 1)
}
