package caddymodule

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestTokenServiceChallenge: every 401 of the token service, and no other answer
// of it, has a Basic challenge; the body is what it was without.
func TestTokenServiceChallenge(t *testing.T) {
	s := start(t, users("alice", "bob"), private("acme", "alice"), "blocked bob", "token {\n refresh_tokens on\n}")
	const wrong = `{"errors":[{"code":"UNAUTHORIZED","message":"wrong user name or password","detail":null}]}`
	for name, row := range map[string]struct {
		changes []with
		body    string
	}{
		"no login":         {nil, `{"errors":[{"code":"UNAUTHORIZED","message":"log in with: docker login ` + s.host + `","detail":null}]}`},
		"wrong password":   {[]with{basic("alice", "wrong")}, wrong},
		"unknown":          {[]with{basic("zoe", "wrong")}, wrong},
		"blocked":          {[]with{as("bob")}, wrong},
		"a bearer token":   {[]with{bearer("x.y.z")}, ""},
		"no scheme":        {[]with{header("Authorization", "x")}, ""},
		"POST":             {[]with{form(loginForm("alice", "wrong"))}, wrong},
		"POST unknown":     {[]with{form(loginForm("zoe", "wrong"))}, wrong},
		"POST bad refresh": {[]with{form(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {"x.y.z"}})}, ""},
	} {
		a := s.get(auth, row.changes...).expect(t, http.StatusUnauthorized, "UNAUTHORIZED").has(t, "WWW-Authenticate", basicChallenge)
		a.has(t, "Content-Type", "application/json").has(t, "Cache-Control", "no-store").has(t, "Content-Length", fmt.Sprint(len(a.body)))
		if row.body != "" && string(a.body) != row.body {
			t.Errorf("%s: got %s, want %s", name, a.body, row.body)
		}
	}
	s.get(auth, as("alice")).expect(t, http.StatusOK, "").has(t, "WWW-Authenticate", "")
	s.get("/jwt/auth", form(url.Values{"grant_type": {"other"}})).expect(t, http.StatusBadRequest, "UNSUPPORTED").has(t, "WWW-Authenticate", "")
	s.get("/jwt/keys").expect(t, http.StatusOK, "").has(t, "WWW-Authenticate", "")
}

// TestSeveralAuthorizations: a request with two logins is refused wherever a
// login counts, whichever of them is good.
func TestSeveralAuthorizations(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 100))
	s := start(t, users("alice", "bob"), roles, private("team", "alice"), visible("open", directory.Public), hub(up))
	token, other := "Bearer "+s.token("alice"), "Bearer x.y.z"
	_, login, _ := strings.Cut(fmt.Sprint(basicHeader("alice")), " ")
	login = "Basic " + login
	up.Reset()
	for _, pair := range [][]string{{token, other}, {other, token}, {login, other}, {token, token}, {login, "Basic eDp4"}, {"", token}} {
		both := func(r *http.Request) { r.Header["Authorization"] = pair }
		for _, path := range []string{"/v2/", manifestPath("team", "alpine", "3.20"), manifestPath("open", "alpine", "3.20"), auth, "/acme/dependency_proxy", "/acme/dependency_proxy/tokens"} {
			a := s.get(path, both).expect(t, http.StatusBadRequest, "UNSUPPORTED").has(t, "WWW-Authenticate", "").has(t, "Content-Type", "application/json")
			if _, message := a.problem(); !strings.Contains(message, "several Authorization headers") {
				t.Errorf("%s: the message is %q", path, message)
			}
		}
		s.get("/jwt/auth", form(loginForm("alice", passwordOf("alice"))), both).expect(t, http.StatusBadRequest, "UNSUPPORTED")
		s.get("/acme/dependency_proxy/cache", method(http.MethodDelete), both).expect(t, http.StatusBadRequest, "UNSUPPORTED")
	}
	s.get("/v2/", header("Authorization", token)).expect(t, http.StatusOK, "")
	if counts := up.Counts(); counts != (registrytest.Counts{}) {
		t.Errorf("upstream was asked: %+v", counts)
	}
}

// basicHeader is the value of an account's Authorization header.
func basicHeader(name string) string {
	r := &http.Request{Header: make(http.Header)}
	as(name)(r)
	return r.Header.Get("Authorization")
}

// TestForwardedLast: of several values, in one header or in several, that of the
// proxy next to the site counts.
func TestForwardedLast(t *testing.T) {
	s := newSite(t)
	s.globals = "servers {\n trusted_proxies static 127.0.0.1/32\n}"
	s.load(users("alice"), private("acme", "alice"))
	for _, row := range []struct {
		hosts, schemes []string
		want           string
	}{
		{[]string{"evil.example", "registry.example.com"}, []string{"http", "https"}, "https://registry.example.com/jwt/auth"},
		{[]string{"evil.example, evil.example", "registry.example.com"}, []string{"http, https"}, "https://registry.example.com/jwt/auth"},
		{[]string{"evil.example", "evil.example,registry.example.com"}, []string{"https", "http"}, "http://registry.example.com/jwt/auth"},
		{[]string{"evil.example", ""}, []string{"https"}, "https://" + s.host + "/jwt/auth"},
	} {
		a := s.get("/v2/", func(r *http.Request) {
			r.Header["X-Forwarded-Host"], r.Header["X-Forwarded-Proto"] = row.hosts, row.schemes
		})
		if got := realmOf(a.expect(t, http.StatusUnauthorized, "UNAUTHORIZED")); got != row.want {
			t.Errorf("%q, %q: got realm %q, want %q", row.hosts, row.schemes, got, row.want)
		}
	}
}

// TestPurgeQuery: only an image that is named, or no parameter at all, purges
// anything.
func TestPurgeQuery(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 100))
	s := start(t, users("alice", "bob"), roles, hub(up))
	pull(t, s, "acme", "alpine", "3.20", as("alice"))
	links := func() int { return strings.Count(strings.Join(s.stored(), "\n"), "links/") }
	before := links()
	purge := func(query string, status int) answer {
		t.Helper()
		return s.get("/acme/dependency_proxy/cache"+query, method(http.MethodDelete), as("bob")).
			expect(t, status, map[int]string{400: "UNSUPPORTED", 202: ""}[status])
	}
	for query, want := range map[string]string{
		"?image=": "the parameter image is empty", "?image": "the parameter image is empty",
		"?Image=alpine": "'Image'", "?images=alpine": "'images'", "?image=alpine&image=": "twice", "?image=&x=1": "'x'", "?image=%zz": "cannot be read", "?image=alpine;x=1": "cannot be read",
	} {
		if _, message := purge(query, 400).problem(); !strings.Contains(message, want) {
			t.Errorf("%s: got %q, want %q", query, message, want)
		}
	}
	if n := links(); n != before || before == 0 {
		t.Errorf("%d links are left of %d", n, before)
	}
	if a := purge("?image=alpine", 202); bytes.Contains(a.body, []byte(`:0}`)) {
		t.Errorf("an image is not purged: %s", a.body)
	}
	purge("", 202)
}

// TestEmptyParameters: a parameter or a flag that is there without a value, as of
// a script whose variable is not set, does not mean everything.
func TestEmptyParameters(t *testing.T) {
	s := startWithAdmin(t, users("alice"), private("acme", "alice"))
	for _, query := range []string{"?account=", "?group=", "?account=alice&group="} {
		if a := s.ask(http.MethodGet, adminTokens+query, ""); a.StatusCode != http.StatusBadRequest || !strings.Contains(a.adminMessage(), "is empty") {
			t.Errorf("%s: got %d %s, want 400", query, a.StatusCode, a.body)
		}
	}
	if a := s.ask(http.MethodPost, adminTokens, `{"kind":"personal","account":"alice","groups":[]}`); a.StatusCode != http.StatusBadRequest || !strings.Contains(a.adminMessage(), "list of groups is empty") {
		t.Errorf("a token limited to no group: got %d %s, want 400", a.StatusCode, a.body)
	}
	for _, args := range [][]string{
		{"token", "create", "--account", "alice", "--group", ""}, {"token", "create", "--account", "", "--group", "acme"},
		{"token", "create", "--group", "acme", "--role", ""}, {"token", "create", "--group", "acme", "--lifetime", ""}, {"token", "create", "--group", "acme", "--scope", ""},
		{"token", "list", "--account", ""}, {"token", "list", "--group", ""},
	} {
		if out, err := s.command(args...); err == nil || !strings.Contains(err.Error()+out, "is empty") {
			t.Errorf("%q: got %v %s, want an error", args, err, out)
		}
	}
	if list := s.mustCommand("token", "list"); strings.Count(list, "\n") != 1 {
		t.Errorf("tokens were made: %s", list)
	}
}
