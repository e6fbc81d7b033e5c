package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// TestDeployToken: made by the command, it pulls from its group by each way to
// log in, whatever the user name, and from no other group; revoked, neither it
// nor what it has bought opens anything.
func TestDeployToken(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", random(1, 1000))
	s := startWithAdmin(t, users("alice"), private("acme", "alice"), private("acme/sub"), private("other"), visible("tools", directory.Internal),
		visible("open", directory.Public), hub(up), "token {\n refresh_tokens on\n}")
	secret, id := s.create("--group", "acme", "--name", "runner 7")
	logins := map[string]with{"Basic": basic("ci", secret), "another name": basic("alice", secret), "no name": basic("", secret)}
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
	if table, err := s.command("token", "list"); err != nil || !strings.Contains(table, id) || strings.Contains(table, "never") || !strings.Contains(table, "good") {
		t.Errorf("%v: %s", err, table)
	}
	s.mustCommand("token", "revoke", id)
	check(map[string]int{"acme": 401, "open": 401})
	refreshForm := loginForm("", "", "refresh_token", refresh)
	refreshForm.Set("grant_type", "refresh_token")
	for _, a := range []answer{s.get(auth, basic("ci", secret)), s.get("/jwt/auth", form(refreshForm))} {
		a.expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	}
	if table, err := s.command("token", "list"); err != nil || !strings.Contains(table, "revoked") {
		t.Errorf("%v: %s", err, table)
	}
	if config := s.ask(http.MethodGet, "/config/", ""); strings.Contains(string(config.body), accesstoken.Prefix) {
		t.Error("the configuration shows a token")
	}
	// The owner's password is as good as ever, and a token is asked for only by its form.
	s.get(manifestPath("acme", "alpine", "3.20"), as("alice")).expect(t, http.StatusOK, "")
}

// TestPersonalToken: it is what its owner is at this moment, within its limits.
func TestPersonalToken(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 100))
	groups := []string{private("acme", "alice"), private("acme/sub"), private("two", "alice", "bob"), hub(up)}
	lines := func(more ...string) []string { return append(more, groups...) }
	s := startWithAdmin(t, lines(users("alice", "bob"))...)
	secret, id := s.create("--account", "alice")
	limited, _ := s.create("--account", "alice", "--group", "acme/sub,two")
	token := s.get(auth, basic("x", secret)).expect(t, http.StatusOK, "").tokens().Token
	check := func(what string, who with, may map[string]int) {
		t.Helper()
		for group, status := range may {
			code := map[int]string{200: "", 401: "UNAUTHORIZED", 403: "DENIED"}[status]
			a := s.get(manifestPath(group, "alpine", "3.20"), who)
			if a.StatusCode != status || a.code() != code {
				t.Errorf("%s in %s: %d %s instead of %d %s", what, group, a.StatusCode, a.code(), status, code)
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
	if a := s.get(manifestPath("acme", "alpine", "3.20"), basic("x", limited)); strings.Contains(string(a.body), "rule") || !strings.Contains(s.logs(), "token of other groups") { // it must not tell where else its owner is
		t.Errorf("%s", a.body)
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
		t.Error("the log does not tell who it was")
	}
}

// TestBadTokens: what is not exactly a token that is good is a wrong password,
// and no other directory hears of it.
func TestBadTokens(t *testing.T) {
	s := startWithAdmin(t, users("alice"), "directory elsewhere", private("acme", "alice"))
	secret, _ := s.create("--group", "acme")
	typo := secret[:20] + string('a'+(secret[20]-'a'+1)%26) + secret[21:]
	elsewhereAsked.Store(0)
	for name, password := range map[string]string{
		"typo": typo, "cut": secret[:40], "longer": secret + "0", "prefix": accesstoken.Prefix, "upper": accesstoken.Prefix + strings.ToUpper(secret[5:]),
		"nobody's": "dpxy_00000000000000000000000000000000000000", "long": secret + strings.Repeat("x", 5000),
	} {
		for _, a := range []answer{s.get(auth, basic("zoe", password)), s.get("/v2/", basic("alice", password)), s.get("/jwt/auth", form(loginForm("zoe", password)))} {
			a.expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
			if _, message := a.problem(); message != "wrong user name or password" {
				t.Errorf("%s: %s", name, message)
			}
		}
	}
	if elsewhereAsked.Load() != 0 {
		t.Error("another directory was asked")
	}
	// People mistake one field for the other; the log must not show it.
	s.get(auth, basic(secret, "x")).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	// A token of ours is no JWT.
	s.get("/v2/", bearer(secret)).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
}

// TestTokenStorage: the tokens are there after a restart, and while they cannot
// be read they are neither good nor wrong.
func TestTokenStorage(t *testing.T) {
	lines := []string{users("alice"), private("acme", "alice")}
	s := startWithAdmin(t, lines...)
	secret, id := s.create("--group", "acme", "--role", "owner")
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
		s.ask(http.MethodPost, tokensPath, `{"kind":"deploy","groups":["acme"]}`), s.ask(http.MethodDelete, tokensPath+"/"+id, ""),
	} {
		if a.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%s: %d %s", a.Request.Method, a.StatusCode, a.body)
		}
	}
	if err := errors.Join(os.Remove(folder), os.Rename(away, folder)); err != nil {
		t.Fatal(err)
	}
	s.get("/v2/", bearer(token)).expect(t, http.StatusOK, "")
	// The file itself holds no secret.
	content, err := os.ReadFile(filepath.Join(folder, id+".json"))
	if err != nil || strings.Contains(string(content), secret[5:]) || !strings.Contains(string(content), `"role":"owner"`) {
		t.Errorf("%v: %s", err, content)
	}
}

// TestTokenRights: what each kind of token may do, as the rules see it; and that
// an owner's own limits, and its directory's groups, count too.
func TestTokenRights(t *testing.T) {
	now := time.Now()
	store := accesstoken.New(accesstoken.Config{Storage: &certmagic.FileStorage{Path: t.TempDir()}, Now: func() time.Time { return now }})
	a := newAccounts([]string{"root"}, nil)
	a.tokens = accessTokens{store: store, ambiguous: new(atomic.Bool)}
	a.add("foreign", foreign{erins{}})
	rules := newAccess([]groupRules{{path: "acme", maintainers: []string{"erin"}}, {path: "acme/sub"}, {path: "tools", visibility: directory.Internal}}, true, a.directories)
	pull, manage := []accesstoken.Scope{accesstoken.Pull}, []accesstoken.Scope{accesstoken.Pull, accesstoken.Manage}
	erin, root := &accesstoken.Owner{Name: "erin", Directory: "foreign", Facts: "facts"}, &accesstoken.Owner{Name: "root", Directory: "foreign"}
	for name, row := range map[string]struct {
		token accesstoken.Token
		may   string // GROUP ROLE
	}{
		"deploy":       {accesstoken.Token{Kind: accesstoken.Deploy, Groups: []string{"acme"}, Scopes: pull}, "acme member, acme/sub member"},
		"deploy below": {accesstoken.Token{Kind: accesstoken.Deploy, Groups: []string{"acme/sub"}, Scopes: pull}, "acme/sub member"},
		"group member": {accesstoken.Token{Kind: accesstoken.Group, Groups: []string{"acme"}, Role: "member", Scopes: manage}, "acme member, acme/sub member"},
		"maintainer":   {accesstoken.Token{Kind: accesstoken.Group, Groups: []string{"acme"}, Role: "maintainer", Scopes: manage}, "acme maintainer, acme/sub maintainer"},
		"owner":        {accesstoken.Token{Kind: accesstoken.Group, Groups: []string{"theirs"}, Role: "owner", Scopes: manage}, "theirs owner, theirs/sub owner"},
		"owner, pulls": {accesstoken.Token{Kind: accesstoken.Group, Groups: []string{"acme"}, Role: "owner", Scopes: pull}, "acme member, acme/sub member"},
		"personal":     {accesstoken.Token{Kind: accesstoken.Personal, Owner: erin, Scopes: pull}, "acme member, acme/sub member, theirs member, theirs/sub member, tools member"},
		"and manages":  {accesstoken.Token{Kind: accesstoken.Personal, Owner: erin, Scopes: manage}, "acme maintainer, acme/sub maintainer, theirs maintainer, theirs/sub maintainer, tools member"},
		"in one group": {accesstoken.Token{Kind: accesstoken.Personal, Owner: erin, Groups: []string{"theirs/sub"}, Scopes: manage}, "theirs/sub maintainer"},
		"admin, pulls": {accesstoken.Token{Kind: accesstoken.Personal, Owner: root, Groups: []string{"acme"}, Scopes: pull}, "acme member, acme/sub member"},
		"admin":        {accesstoken.Token{Kind: accesstoken.Personal, Owner: root, Groups: []string{"tools"}, Scopes: manage}, "tools owner"},
		"other site":   {accesstoken.Token{Kind: accesstoken.Deploy, Groups: []string{"acme"}, Scopes: pull, Site: "other"}, "wrong password: the access token is for another site"},
		"no account":   {accesstoken.Token{Kind: accesstoken.Personal, Owner: &accesstoken.Owner{Name: "nobody", Directory: "foreign"}, Scopes: pull}, "unknown account"},
		"no directory": {accesstoken.Token{Kind: accesstoken.Personal, Owner: &accesstoken.Owner{Name: "erin", Directory: "static"}, Scopes: pull}, "unknown account"},
	} {
		token, secret, err := store.Create(t.Context(), row.token, time.Hour)
		if err != nil {
			t.Fatal(name, err)
		}
		who, err := a.authenticate(t.Context(), directory.Login{Password: secret})
		again, err2 := a.current(t.Context(), who.identity())
		if err != nil {
			if !directory.IsRefusal(err) || !strings.Contains(err.Error(), row.may) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err2 != nil || !reflect.DeepEqual(who, again) || who.token != token.ID {
			t.Errorf("%s: %+v and then %+v, %v", name, who, again, err2)
		}
		if got := mayDo(t, rules, who); got != row.may {
			t.Errorf("%s may %s instead of %s", name, got, row.may)
		}
		now = now.Add(time.Hour)
		if _, err := a.current(t.Context(), who.identity()); !directory.IsRefusal(err) || !errors.Is(err, accesstoken.ErrExpired) {
			t.Errorf("%s after its time: %v", name, err)
		}
	}
}

// erins is a directory with two accounts; erin's has facts, without which
// nothing is known of her groups.
type erins struct{ directory.Directory }

func (erins) Lookup(_ context.Context, name, facts string) (directory.Account, error) {
	if name == "nobody" || name == "erin" && facts == "" {
		return directory.Account{}, directory.ErrUnknownAccount
	}
	return directory.Account{Name: name, Facts: facts, Version: "7"}, nil
}

// mayDo is the highest role that somebody has in each group.
func mayDo(t *testing.T, rules *access, who caller) string {
	t.Helper()
	var may []string
	for _, group := range []string{"acme", "acme/sub", "theirs", "theirs/sub", "tools"} {
		for want := directory.Owner; want > directory.NoRole; want-- {
			v, err := rules.decide(t.Context(), who, group, want)
			if err != nil {
				t.Error(err)
			}
			if v.ok {
				may = append(may, fmt.Sprintf("%s %s", group, want))
				break
			}
		}
	}
	return strings.Join(may, ", ")
}

// TestNarrow: two limits together allow what both allow.
func TestNarrow(t *testing.T) {
	for _, row := range []struct{ a, b, want []string }{
		{nil, nil, nil},
		{nil, []string{"a"}, []string{"a"}},
		{[]string{"a"}, []string{"a", "b"}, []string{"a"}},
		{[]string{"a"}, []string{"a/b", "ab"}, []string{"a/b"}},
		{[]string{"a/b", "c"}, []string{"a", "a/b/c"}, []string{"a/b", "a/b/c"}},
		{[]string{"a"}, []string{"b"}, []string{}},
		{[]string{}, nil, []string{}},
		{[]string{}, []string{"a"}, []string{}},
	} {
		for _, got := range [][]string{narrow(row.a, row.b), narrow(row.b, row.a)} {
			if !slices.Equal(got, row.want) || (got == nil) != (row.want == nil) {
				t.Errorf("%v and %v: %v instead of %v", row.a, row.b, got, row.want)
			}
		}
	}
}
