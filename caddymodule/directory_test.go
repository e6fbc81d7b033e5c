package caddymodule

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestDirectoryOutage checks that logins and tokens issued before are answered
// with 503 while their directory cannot answer.
func TestDirectoryOutage(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 100))
	s := start(t, "directory elsewhere", private("acme", "zoe"), visible("open", directory.Public), hub(up), "token {\n refresh_tokens on\n}")
	s.addSecrets(passwordOf("elsewhere"))
	zoe := func(r *http.Request) { r.SetBasicAuth("zoe", passwordOf("elsewhere")) }
	path := manifestPath("acme", "alpine", "3.20")
	tokens := s.get(auth+"&offline_token=true", zoe).expect(t, http.StatusOK, "").tokens()
	token := tokens.Token
	s.get(path, bearer(token)).expect(t, http.StatusOK, "")

	elsewhereAway.Store(true)
	defer elsewhereAway.Store(false)
	for _, a := range []answer{
		s.get(auth, zoe), s.get("/jwt/auth", form(loginForm("zoe", passwordOf("elsewhere")))), s.get("/v2/", zoe),
		s.get("/jwt/auth", form(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {tokens.RefreshToken}})),
		s.get("/v2/", bearer(token)), s.get(path, bearer(token)), s.get(path, zoe), s.get(manifestPath("open", "alpine", "3.20"), bearer(token)),
	} {
		a.expect(t, http.StatusServiceUnavailable, "UNAVAILABLE").has(t, "Retry-After", "10").has(t, "WWW-Authenticate", "")
		if _, message := a.problem(); strings.Contains(message, "away") {
			t.Errorf("got the message %q, want none of the directory's error", message)
		}
	}
	if !strings.Contains(s.logs(), "the directory is away") {
		t.Error("the log lacks \"the directory is away\"")
	}
	// An anonymous caller needs no directory.
	s.get(manifestPath("open", "alpine", "3.20"), bearer(s.get(auth).tokens().Token)).expect(t, http.StatusOK, "")
	elsewhereAway.Store(false)
	s.get(path, bearer(token)).expect(t, http.StatusOK, "")
}

// TestDirectoryOrder checks that directories are asked in order, and that the
// first one that knows an account decides.
func TestDirectoryOrder(t *testing.T) {
	s := start(t, users("alice"), "directory elsewhere", private("acme", "alice", "elsewhere:zoe"))
	s.addSecrets(passwordOf("elsewhere"))
	login := func(name, password string, status int, asked int32) {
		t.Helper()
		elsewhereAsked.Store(0)
		a := s.get("/jwt/auth", form(loginForm(name, password)))
		if a.StatusCode != status || elsewhereAsked.Load() != asked {
			t.Errorf("%s: got %d and %d questions to the second directory, want %d and %d", name, a.StatusCode, elsewhereAsked.Load(), status, asked)
		}
	}
	login("alice", passwordOf("alice"), 200, 0)
	login("alice", passwordOf("elsewhere"), 401, 1) // asked with an invented name, not about another alice
	if heard := elsewhereHeard.Load().(string); !strings.HasPrefix(heard, "nobody-") || strings.Contains(heard, passwordOf("elsewhere")) {
		t.Errorf("the second directory got %q, want neither the name nor the password", heard)
	}
	login("zoe", passwordOf("elsewhere"), 200, 1)
	login("zoe", "wrong", 401, 1)
	login("nobody", passwordOf("elsewhere"), 401, 1)
	elsewhereAway.Store(true)
	defer elsewhereAway.Store(false)
	login("alice", passwordOf("alice"), 200, 0)
	login("zoe", passwordOf("elsewhere"), 503, 1)
}
