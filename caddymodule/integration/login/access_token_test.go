package login

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// TestDeployToken checks that a deploy token pulls from its group with each way
// to log in, with any user name and from no other group, and that neither it
// nor a token bought with it is accepted after it was revoked.
func TestDeployToken(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", sitetest.Random(1, 1000))
	s := sitetest.StartWithAdmin(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Private("acme/sub"), sitetest.Private("other"), sitetest.Visible("tools", directory.Internal),
		sitetest.Visible("open", directory.Public), sitetest.Hub(up), "token {\n refresh_tokens on\n}")
	secret, id := s.CreateToken("--group", "acme", "--name", "runner 7")
	logins := map[string]sitetest.RequestOption{"Basic": sitetest.Basic("ci", secret), "another name": sitetest.Basic("alice", secret), "no name": sitetest.Basic("", secret)}
	for name, a := range map[string]sitetest.Answer{
		"GET": s.Get(sitetest.Auth+"&account=ci", sitetest.Basic("ci", secret)), "POST": s.Get("/jwt/auth", sitetest.Form(sitetest.LoginForm("x", secret))),
	} {
		logins[name] = sitetest.Bearer(a.Expect(t, http.StatusOK, "").Tokens().Token)
	}
	refresh := s.Get(sitetest.Auth+"&offline_token=true", sitetest.Basic("ci", secret)).Tokens().RefreshToken
	check := func(may map[string]int) {
		t.Helper()
		for name, who := range logins {
			for group, status := range may {
				code := map[int]string{200: "", 401: "UNAUTHORIZED", 403: "DENIED"}[status]
				t.Run(name+" "+group, func(t *testing.T) {
					s.Get(sitetest.ManifestPath(group, "alpine", "3.20"), who).Expect(t, status, code)
					s.Get(sitetest.BlobPath(group, "alpine", image.Layers[0]), who).Expect(t, status, code)
				})
			}
		}
	}
	check(map[string]int{"acme": 200, "acme/sub": 200, "open": 200, "other": 403, "tools": 403, "none": 403})
	for _, what := range []string{`"access_token":"` + id + `"`, `"user_id":"token:` + id + `"`, `"by":"admin API"`} {
		if !strings.Contains(s.Logs(), what) {
			t.Errorf("the log lacks %s", what)
		}
	}
	if table, err := s.Command("token", "list"); err != nil || !strings.Contains(table, id) || strings.Contains(table, "never") || !strings.Contains(table, "valid") {
		t.Errorf("got error %v and %s, want the token %s, used and valid", err, table, id)
	}
	s.MustCommand("token", "revoke", id)
	check(map[string]int{"acme": 401, "tools": 401})
	for name, who := range logins {
		status := http.StatusUnauthorized
		if name == "Basic" || name == "another name" || name == "no name" {
			status = http.StatusOK // as without a login
		}
		s.ExpectPull("open", status, who)
	}
	refreshForm := sitetest.LoginForm("", "", "refresh_token", refresh)
	refreshForm.Set("grant_type", "refresh_token")
	for _, a := range []sitetest.Answer{s.Get(sitetest.Auth, sitetest.Basic("ci", secret)), s.Get("/jwt/auth", sitetest.Form(refreshForm))} {
		a.Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	}
	if table, err := s.Command("token", "list"); err != nil || !strings.Contains(table, "revoked") {
		t.Errorf("got error %v and %s, want a revoked token", err, table)
	}
	if config := s.Ask(http.MethodGet, "/config/", ""); strings.Contains(string(config.Data), accesstoken.Prefix) {
		t.Error("got a token in the configuration, want none")
	}
	// The owner's password is still accepted, because only its form makes a
	// password a token.
	s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.As("alice")).Expect(t, http.StatusOK, "")
}

// TestPersonalTokenFollowsOwner checks that a personal token has the current
// rights of its owner, within its own limits.
func TestPersonalTokenFollowsOwner(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	groups := []string{sitetest.Private("acme", "alice"), sitetest.Private("acme/sub"), sitetest.Private("two", "alice", "bob"), sitetest.Hub(up)}
	lines := func(more ...string) []string { return append(more, groups...) }
	s := sitetest.StartWithAdmin(t, lines(sitetest.Users("alice", "bob"))...)
	secret, id := s.CreateToken("--account", "alice")
	limited, _ := s.CreateToken("--account", "alice", "--group", "acme/sub,two")
	token := s.Get(sitetest.Auth, sitetest.Basic("x", secret)).Expect(t, http.StatusOK, "").Tokens().Token
	check := func(what string, who sitetest.RequestOption, may map[string]int) {
		t.Helper()
		for group, status := range may {
			code := map[int]string{200: "", 401: "UNAUTHORIZED", 403: "DENIED"}[status]
			a := s.Get(sitetest.ManifestPath(group, "alpine", "3.20"), who)
			if a.StatusCode != status || a.Code() != code {
				t.Errorf("%s in %s: got %d %s, want %d %s", what, group, a.StatusCode, a.Code(), status, code)
			}
		}
	}
	both := func(what string, may map[string]int) {
		t.Helper()
		check(what, sitetest.Basic("x", secret), may)
		check(what+", bought", sitetest.Bearer(token), may)
	}
	both("as it is", map[string]int{"acme": 200, "acme/sub": 200, "two": 200})
	check("limited", sitetest.Basic("x", limited), map[string]int{"acme": 403, "acme/sub": 200, "two": 200})
	if a := s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.Basic("x", limited)); strings.Contains(string(a.Data), "rule") || !strings.Contains(s.Logs(), "token of other groups") { // the answer must not reveal the owner's other groups
		t.Errorf("got %s, want no rule in it and one in the log", a.Data)
	}
	s.Load(lines(sitetest.Users("alice", "bob"), "blocked alice")...)
	both("blocked", map[string]int{"acme": 401, "two": 401})
	s.Load(lines(sitetest.Users("bob"))...)
	both("gone", map[string]int{"acme": 401})
	s.Load(lines("user alice " + sitetest.Hash("another-password"))...)
	both("of another password", map[string]int{"acme": 200})
	s.Load(sitetest.Users("alice"), sitetest.Private("acme"), sitetest.Private("two", "alice"), sitetest.Hub(up))
	both("out of a group", map[string]int{"acme": 403, "two": 200})
	s.Load("directory static {\n"+sitetest.Users("alice")+"\n}", "directory elsewhere", sitetest.Private("acme", "alice"), sitetest.Hub(up))
	both("of one directory of two", map[string]int{"acme": 200})
	s.Load("directory elsewhere", sitetest.Private("acme", "alice"), sitetest.Hub(up))
	both("of a directory that is gone, though another has the name", map[string]int{"acme": 401})
	if logs := s.Logs(); !strings.Contains(logs, `"user_id":"alice"`) || !strings.Contains(logs, `"access_token":"`+id+`"`) || !strings.Contains(logs, "the account is blocked") {
		t.Error("the log lacks the account, the token or the reason")
	}
}

// TestMalformedAccessTokens checks that a malformed or unknown access token is
// refused like a wrong password, and that no other directory is asked about it.
func TestMalformedAccessTokens(t *testing.T) {
	s := sitetest.StartWithAdmin(t, sitetest.Users("alice"), "directory elsewhere", sitetest.Private("acme", "alice"))
	secret, _ := s.CreateToken("--group", "acme")
	typo := secret[:20] + string('a'+(secret[20]-'a'+1)%26) + secret[21:]
	sitetest.ElsewhereAsked.Store(0)
	for name, password := range map[string]string{
		"typo": typo, "cut": secret[:40], "longer": secret + "0", "prefix": accesstoken.Prefix, "upper": accesstoken.Prefix + strings.ToUpper(secret[5:]),
		"nobody's": "dpxy_00000000000000000000000000000000000000", "long": secret + strings.Repeat("x", 5000),
	} {
		for _, a := range []sitetest.Answer{s.Get(sitetest.Auth, sitetest.Basic("zoe", password)), s.Get("/v2/", sitetest.Basic("alice", password)), s.Get("/jwt/auth", sitetest.Form(sitetest.LoginForm("zoe", password)))} {
			a.Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
			if _, message := a.Problem(); message != "wrong user name or password" {
				t.Errorf("%s: got the message %q, want that of a wrong password", name, message)
			}
		}
	}
	if sitetest.ElsewhereAsked.Load() != 0 {
		t.Errorf("got %d questions to another directory, want none", sitetest.ElsewhereAsked.Load())
	}
	// Users mistake one field for the other. The log must not contain the
	// token.
	s.Get(sitetest.Auth, sitetest.Basic(secret, "x")).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	// An access token is not a JWT.
	s.Get("/v2/", sitetest.Bearer(secret)).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
}

// TestAccessTokenStorage checks that access tokens survive a restart, and that
// they are neither accepted nor refused while their storage cannot be read.
func TestAccessTokenStorage(t *testing.T) {
	lines := []string{sitetest.Users("alice"), sitetest.Private("acme", "alice")}
	s := sitetest.StartWithAdmin(t, lines...)
	secret, id := s.CreateToken("--group", "acme", "--role", "owner")
	s.Restart(lines...)
	token := s.Get(sitetest.Auth, sitetest.Basic("ci", secret)).Expect(t, http.StatusOK, "").Tokens().Token
	s.Restart(lines...)
	folder := filepath.Join(s.Dir, "storage", "dependency_proxy/tokens")
	away := folder + "-away"
	if err := errors.Join(os.Rename(folder, away), os.WriteFile(folder, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, a := range []sitetest.Answer{s.Get(sitetest.Auth, sitetest.Basic("ci", secret)), s.Get("/v2/", sitetest.Basic("ci", secret)), s.Get("/v2/", sitetest.Bearer(token))} {
		a.Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE").Has(t, "Retry-After", "10").Has(t, "WWW-Authenticate", "")
	}
	s.Get("/v2/", sitetest.As("alice")).Expect(t, http.StatusOK, "")
	for _, a := range []sitetest.Answer{
		s.Ask(http.MethodPost, sitetest.AdminTokens, `{"kind":"deploy","groups":["acme"]}`), s.Ask(http.MethodDelete, sitetest.AdminTokens+"/"+id, ""),
	} {
		if a.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%s: got status %d with %s, want 503", a.Request.Method, a.StatusCode, a.Data)
		}
	}
	if err := errors.Join(os.Remove(folder), os.Rename(away, folder)); err != nil {
		t.Fatal(err)
	}
	s.Get("/v2/", sitetest.Bearer(token)).Expect(t, http.StatusOK, "")
	// The file does not contain the secret.
	content, err := os.ReadFile(filepath.Join(folder, id+".json"))
	if err != nil || strings.Contains(string(content), secret[5:]) || !strings.Contains(string(content), `"role":"owner"`) {
		t.Errorf("got error %v and %s, want a file with the role and without the secret", err, content)
	}
}
