package caddymodule

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// TestDeployToken checks that a deploy token pulls from its group with each way
// to log in, with any user name and from no other group, and that neither it
// nor a token bought with it is accepted after it was revoked.
func TestDeployToken(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", random(1, 1000))
	s := startWithAdmin(t, users("alice"), private("acme", "alice"), private("acme/sub"), private("other"), visible("tools", directory.Internal),
		visible("open", directory.Public), hub(up), "token {\n refresh_tokens on\n}")
	secret, id := s.createToken("--group", "acme", "--name", "runner 7")
	logins := map[string]requestOption{"Basic": basic("ci", secret), "another name": basic("alice", secret), "no name": basic("", secret)}
	for name, a := range map[string]answer{
		"GET": s.get(auth+"&account=ci", basic("ci", secret)), "POST": s.get("/jwt/auth", form(loginForm("x", secret))),
	} {
		logins[name] = bearer(a.expect(t, http.StatusOK, "").tokens().Token)
	}
	refresh := s.get(auth+"&offline_token=true", basic("ci", secret)).tokens().RefreshToken
	check := func(may map[string]int) {
		t.Helper()
		for name, who := range logins {
			for group, status := range may {
				code := map[int]string{200: "", 401: "UNAUTHORIZED", 403: "DENIED"}[status]
				t.Run(name+" "+group, func(t *testing.T) {
					s.get(manifestPath(group, "alpine", "3.20"), who).expect(t, status, code)
					s.get(blobPath(group, "alpine", image.Layers[0]), who).expect(t, status, code)
				})
			}
		}
	}
	check(map[string]int{"acme": 200, "acme/sub": 200, "open": 200, "other": 403, "tools": 403, "none": 403})
	for _, what := range []string{`"access_token":"` + id + `"`, `"user_id":"token:` + id + `"`, `"by":"admin API"`} {
		if !strings.Contains(s.logs(), what) {
			t.Errorf("the log lacks %s", what)
		}
	}
	if table, err := s.command("token", "list"); err != nil || !strings.Contains(table, id) || strings.Contains(table, "never") || !strings.Contains(table, "valid") {
		t.Errorf("got error %v and %s, want the token %s, used and valid", err, table, id)
	}
	s.mustCommand("token", "revoke", id)
	check(map[string]int{"acme": 401, "tools": 401})
	for name, who := range logins {
		status := http.StatusUnauthorized
		if name == "Basic" || name == "another name" || name == "no name" {
			status = http.StatusOK // as without a login
		}
		s.expectPull("open", status, who)
	}
	refreshForm := loginForm("", "", "refresh_token", refresh)
	refreshForm.Set("grant_type", "refresh_token")
	for _, a := range []answer{s.get(auth, basic("ci", secret)), s.get("/jwt/auth", form(refreshForm))} {
		a.expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	}
	if table, err := s.command("token", "list"); err != nil || !strings.Contains(table, "revoked") {
		t.Errorf("got error %v and %s, want a revoked token", err, table)
	}
	if config := s.ask(http.MethodGet, "/config/", ""); strings.Contains(string(config.body), accesstoken.Prefix) {
		t.Error("got a token in the configuration, want none")
	}
	// The owner's password is still accepted, because only its form makes a
	// password a token.
	s.get(manifestPath("acme", "alpine", "3.20"), as("alice")).expect(t, http.StatusOK, "")
}

// TestPersonalTokenFollowsOwner checks that a personal token has the current
// rights of its owner, within its own limits.
func TestPersonalTokenFollowsOwner(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 100))
	groups := []string{private("acme", "alice"), private("acme/sub"), private("two", "alice", "bob"), hub(up)}
	lines := func(more ...string) []string { return append(more, groups...) }
	s := startWithAdmin(t, lines(users("alice", "bob"))...)
	secret, id := s.createToken("--account", "alice")
	limited, _ := s.createToken("--account", "alice", "--group", "acme/sub,two")
	token := s.get(auth, basic("x", secret)).expect(t, http.StatusOK, "").tokens().Token
	check := func(what string, who requestOption, may map[string]int) {
		t.Helper()
		for group, status := range may {
			code := map[int]string{200: "", 401: "UNAUTHORIZED", 403: "DENIED"}[status]
			a := s.get(manifestPath(group, "alpine", "3.20"), who)
			if a.StatusCode != status || a.code() != code {
				t.Errorf("%s in %s: got %d %s, want %d %s", what, group, a.StatusCode, a.code(), status, code)
			}
		}
	}
	both := func(what string, may map[string]int) {
		t.Helper()
		check(what, basic("x", secret), may)
		check(what+", bought", bearer(token), may)
	}
	both("as it is", map[string]int{"acme": 200, "acme/sub": 200, "two": 200})
	check("limited", basic("x", limited), map[string]int{"acme": 403, "acme/sub": 200, "two": 200})
	if a := s.get(manifestPath("acme", "alpine", "3.20"), basic("x", limited)); strings.Contains(string(a.body), "rule") || !strings.Contains(s.logs(), "token of other groups") { // the answer must not reveal the owner's other groups
		t.Errorf("got %s, want no rule in it and one in the log", a.body)
	}
	s.load(lines(users("alice", "bob"), "blocked alice")...)
	both("blocked", map[string]int{"acme": 401, "two": 401})
	s.load(lines(users("bob"))...)
	both("gone", map[string]int{"acme": 401})
	s.load(lines("user alice " + hash("another-password"))...)
	both("of another password", map[string]int{"acme": 200})
	s.load(users("alice"), private("acme"), private("two", "alice"), hub(up))
	both("out of a group", map[string]int{"acme": 403, "two": 200})
	s.load("directory static {\n"+users("alice")+"\n}", "directory elsewhere", private("acme", "alice"), hub(up))
	both("of one directory of two", map[string]int{"acme": 200})
	s.load("directory elsewhere", private("acme", "alice"), hub(up))
	both("of a directory that is gone, though another has the name", map[string]int{"acme": 401})
	if logs := s.logs(); !strings.Contains(logs, `"user_id":"alice"`) || !strings.Contains(logs, `"access_token":"`+id+`"`) || !strings.Contains(logs, "the account is blocked") {
		t.Error("the log lacks the account, the token or the reason")
	}
}

// TestMalformedAccessTokens checks that a malformed or unknown access token is
// refused like a wrong password, and that no other directory is asked about it.
func TestMalformedAccessTokens(t *testing.T) {
	s := startWithAdmin(t, users("alice"), "directory elsewhere", private("acme", "alice"))
	secret, _ := s.createToken("--group", "acme")
	typo := secret[:20] + string('a'+(secret[20]-'a'+1)%26) + secret[21:]
	elsewhereAsked.Store(0)
	for name, password := range map[string]string{
		"typo": typo, "cut": secret[:40], "longer": secret + "0", "prefix": accesstoken.Prefix, "upper": accesstoken.Prefix + strings.ToUpper(secret[5:]),
		"nobody's": "dpxy_00000000000000000000000000000000000000", "long": secret + strings.Repeat("x", 5000),
	} {
		for _, a := range []answer{s.get(auth, basic("zoe", password)), s.get("/v2/", basic("alice", password)), s.get("/jwt/auth", form(loginForm("zoe", password)))} {
			a.expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
			if _, message := a.problem(); message != "wrong user name or password" {
				t.Errorf("%s: got the message %q, want that of a wrong password", name, message)
			}
		}
	}
	if elsewhereAsked.Load() != 0 {
		t.Errorf("got %d questions to another directory, want none", elsewhereAsked.Load())
	}
	// Users mistake one field for the other. The log must not contain the
	// token.
	s.get(auth, basic(secret, "x")).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	// An access token is not a JWT.
	s.get("/v2/", bearer(secret)).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
}

// TestAccessTokenStorage checks that access tokens survive a restart, and that
// they are neither accepted nor refused while their storage cannot be read.
func TestAccessTokenStorage(t *testing.T) {
	lines := []string{users("alice"), private("acme", "alice")}
	s := startWithAdmin(t, lines...)
	secret, id := s.createToken("--group", "acme", "--role", "owner")
	s.restart(lines...)
	token := s.get(auth, basic("ci", secret)).expect(t, http.StatusOK, "").tokens().Token
	s.restart(lines...)
	folder := filepath.Join(s.dir, "storage", "dependency_proxy/tokens")
	away := folder + "-away"
	if err := errors.Join(os.Rename(folder, away), os.WriteFile(folder, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, a := range []answer{s.get(auth, basic("ci", secret)), s.get("/v2/", basic("ci", secret)), s.get("/v2/", bearer(token))} {
		a.expect(t, http.StatusServiceUnavailable, "UNAVAILABLE").has(t, "Retry-After", "10").has(t, "WWW-Authenticate", "")
	}
	s.get("/v2/", as("alice")).expect(t, http.StatusOK, "")
	for _, a := range []answer{
		s.ask(http.MethodPost, adminTokens, `{"kind":"deploy","groups":["acme"]}`), s.ask(http.MethodDelete, adminTokens+"/"+id, ""),
	} {
		if a.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%s: got status %d with %s, want 503", a.Request.Method, a.StatusCode, a.body)
		}
	}
	if err := errors.Join(os.Remove(folder), os.Rename(away, folder)); err != nil {
		t.Fatal(err)
	}
	s.get("/v2/", bearer(token)).expect(t, http.StatusOK, "")
	// The file does not contain the secret.
	content, err := os.ReadFile(filepath.Join(folder, id+".json"))
	if err != nil || strings.Contains(string(content), secret[5:]) || !strings.Contains(string(content), `"role":"owner"`) {
		t.Errorf("got error %v and %s, want a file with the role and without the secret", err, content)
	}
}
