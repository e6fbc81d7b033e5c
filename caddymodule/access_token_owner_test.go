package caddymodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/admin"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabtest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/ldaptest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/oidctest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// TestTokenEndsWithItsMaker checks that a token created with another token ends
// when that one does, and that revoking the other one lists it.
func TestTokenEndsWithItsMaker(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 100))
	lines := []string{users("alice", "bob"), "group acme {\n owners alice\n}\n", hub(up)}
	s := startWithAdmin(t, lines...)
	personal, id := s.createToken("--account", "static:alice", "--scope", "manage", "--lifetime", "2h")
	make := func(who requestOption) admin.CreatedToken {
		t.Helper()
		var made admin.CreatedToken
		a := s.get("/acme/dependency_proxy/tokens", who, jsonBody(http.MethodPost, `{"kind":"group","role":"owner","lifetime":"1h"}`)).expect(t, http.StatusCreated, "")
		if err := json.Unmarshal(a.body, &made); err != nil {
			t.Fatal(err)
		}
		s.addSecrets(made.Secret)
		return made
	}
	child, own := make(basic("", personal)), make(as("alice"))
	if child.MadeWith != id || own.MadeWith != "" || child.CreatedBy != "static:alice" {
		t.Errorf("got tokens created with %q and %q by %q, want %q, none and static:alice", child.MadeWith, own.MadeWith, child.CreatedBy, id)
	}
	bought := bearer(s.get(auth, basic("", child.Secret)).expect(t, http.StatusOK, "").tokens().Token)
	status := func(what string, want, wantOwn int) {
		t.Helper()
		for name, who := range map[string]requestOption{"Basic": basic("", child.Secret), "Bearer": bought} {
			if got := s.get(manifestPath("acme", "alpine", "3.20"), who).StatusCode; got != want {
				t.Errorf("%s, by %s: got %d, want %d", what, name, got, want)
			}
		}
		if got := s.get(manifestPath("acme", "alpine", "3.20"), basic("", own.Secret)).StatusCode; got != wantOwn {
			t.Errorf("%s, the token made with a password: got %d, want %d", what, got, wantOwn)
		}
	}
	status("at first", 200, 200)
	s.load(append(lines, "blocked alice")...)
	status("while the account is blocked", 401, 200)
	s.load(lines...)
	status("when it is not any more", 200, 200)
	out := s.mustCommand("token", "revoke", id)
	if want := fmt.Sprintf("group token %s for owner of acme ends too, because it was created with %s.", child.ID, id); !strings.Contains(out, want) || strings.Contains(out, own.ID) {
		t.Errorf("token revoke prints %q, want %q in it", out, want)
	}
	status("after revoking", 401, 200)
	var revoked access.RevokedToken
	if a := s.ask(http.MethodDelete, adminTokens+"/"+id, ""); json.Unmarshal(a.body, &revoked) != nil || len(revoked.AlsoEnded) != 1 || revoked.AlsoEnded[0].ID != child.ID {
		t.Errorf("got %s, want the token %s as the only one that ends too", a.body, child.ID)
	}
	if table := s.mustCommand("token", "list"); !strings.Contains(table, "ended: it was made with "+id+": the access token has been revoked") {
		t.Errorf("token list prints %s, want the token that the ended one was created with", table)
	}
	if logs := s.logs(); !strings.Contains(logs, "was made with "+id) {
		t.Errorf("the log lacks %q", "was made with "+id)
	}
}

// TestTokenChainIsLimited checks that all tokens of a chain, each created with
// the one before, end with the first, and that the length of a chain is
// limited.
func TestTokenChainIsLimited(t *testing.T) {
	s := startWithAdmin(t, users("alice"), private("acme", "alice"))
	h := runningHandler(t)
	_, first := s.createToken("--group", "acme")
	ids := []string{first}
	for range documentedMakers + 1 {
		made, _, err := h.tokens.Create(t.Context(), access.TokenRequest{Kind: accesstoken.Deploy, Groups: []string{"acme"}, MadeWith: ids[len(ids)-1]}, "a test")
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, made.ID)
	}
	good := func() (n int) {
		for _, id := range ids {
			if _, err := h.accounts.Find(t.Context(), "", "token:"+id); err == nil {
				n++
			} else if !directory.IsRefusal(err) {
				t.Error(err)
			}
		}
		return n
	}
	if n := good(); n != documentedMakers+1 {
		t.Errorf("got %d good tokens of %d, want %d", n, len(ids), documentedMakers+1)
	}
	revoked, err := h.tokens.Revoke(t.Context(), first, "a test", func(accesstoken.Token) bool { return true })
	if err != nil || len(revoked.AlsoEnded) != documentedMakers || good() != 0 {
		t.Errorf("got %d tokens that end too, %d good ones and error %v, want %d, none and none", len(revoked.AlsoEnded), good(), err, documentedMakers)
	}
}

// storeToken writes a personal token into the storage, as an earlier version
// has created it.
func (s *site) storeToken(owner accesstoken.Owner) (secret, id string) {
	s.t.Helper()
	token, secret, err := tokens.All()[0].Create(s.t.Context(), accesstoken.Token{
		Kind: accesstoken.Personal, Owner: &owner, Scopes: []accesstoken.Scope{accesstoken.Pull},
	}, time.Hour)
	if err != nil {
		s.t.Fatal(err)
	}
	s.addSecrets(secret)
	return secret, token.ID
}

// TestTokensOfEarlierVersions checks that a personal token of an earlier
// version, which names only the type of its owner's directory, stays valid if
// that directory is unambiguous and ends otherwise, which is logged once and
// shown by the list.
func TestTokensOfEarlierVersions(t *testing.T) {
	l, g := ldaptest.New(t, true), gitlabtest.New(t)
	g.AddUser(1, "alice")
	fixed := []string{users("alice"), gitlabAt(t, g), private("acme")}
	s := startWithAdmin(t, append(fixed, l.Directory())...)
	tokens := map[string][2]string{}
	for _, directory := range []string{"static", "ldap", "gitlab", "ldap-2", "elsewhere"} {
		secret, id := s.storeToken(accesstoken.Owner{Name: "alice", Directory: directory})
		tokens[directory] = [2]string{secret, id}
	}
	child, _, err := runningHandler(t).tokens.Create(t.Context(), access.TokenRequest{Kind: accesstoken.Deploy, Groups: []string{"acme"}, MadeWith: tokens["ldap"][1]}, "a test")
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, good ...string) {
		t.Helper()
		table := s.mustCommand("token", "list")
		for directory, token := range tokens {
			want, state := http.StatusUnauthorized, "it was created before directories had names"
			for _, name := range good {
				if name == directory {
					want, state = http.StatusOK, "valid"
				}
			}
			if got := s.get("/v2/", basic("x", token[0])).StatusCode; got != want {
				t.Errorf("%s, a token of %s: got %d, want %d", what, directory, got, want)
			}
			if line := lineContaining(table, token[1]); !strings.Contains(line, state) {
				t.Errorf("%s, a token of %s: it is listed as %q, want %q", what, directory, line, state)
			}
		}
	}
	check("with one directory of each kind", "static", "ldap", "gitlab")
	s.load(append(fixed, l.Directory("name corp"))...)
	check("with another name of the directory", "static", "ldap", "gitlab")
	for range 2 {
		s.load(append(fixed, l.Directory("name ldap"), l.Directory("name ldap-2"))...)
		check("with two directories of one kind", "static", "gitlab")
	}
	ended := `"msg":"access token has ended","access_token":"` + child.ID + `","kind":"deploy"`
	eventually(t, "the log tells of what was made with a token", func() bool { return strings.Count(s.logs(), ended) == 1 })
	for directory, token := range tokens {
		want := 1
		if directory == "static" || directory == "gitlab" {
			want = 0
		}
		line := `"msg":"access token has ended","access_token":"` + token[1] + `"`
		eventually(t, "the log tells of the token of "+directory, func() bool { return strings.Count(s.logs(), line) == want })
	}
}

// TestTokenEndsWithDirectory checks that a personal token ends when its owner's
// directory is replaced by another one of the same name, and is valid again
// when the old one is back.
func TestTokenEndsWithDirectory(t *testing.T) {
	l, g, other := ldaptest.New(t, true), gitlabtest.New(t), gitlabtest.New(t)
	g.AddUser(1, "alice")
	other.AddUser(1, "alice")
	s := newSite(t)
	s.openAdmin()
	files := [2]string{filepath.Join(s.dir, "one"), filepath.Join(s.dir, "two")}
	for _, file := range files {
		writeFile(t, file, usersText("alice"))
		backdate(t, file)
	}
	static := func(i int) string { return "directory static {\n users_file " + files[i] + "\n}\n" }
	for name, row := range map[string][2]string{
		"static": {static(0), static(1)},
		"ldap":   {l.Directory(), strings.Replace(l.Directory(), "base_dn dc=example", "base_dn ou=people,dc=example", 1)},
		"gitlab": {gitlabAt(t, g), gitlabAt(t, other)},
	} {
		s.load(row[0], private("acme"))
		secret, id := s.createToken("--account", name+":alice")
		status := func(what, lines string, want int, state string) {
			t.Helper()
			s.load(lines, private("acme"))
			if got := s.get("/v2/", basic("x", secret)).StatusCode; got != want {
				t.Errorf("%s, %s: got %d, want %d", name, what, got, want)
			}
			if line := lineContaining(s.mustCommand("token", "list"), id); !strings.Contains(line, state) {
				t.Errorf("%s, %s: it is listed as %q, want %q", name, what, line, state)
			}
		}
		status("as it was", row[0], 200, "valid")
		status("from elsewhere", row[1], 401, "ended: the directory "+name+" has another URL")
		status("with another name", strings.Replace(row[0], "{\n", "{\n name corp\n", 1), 401, "ended: the directory "+name+" no longer exists")
		status("another's name", strings.Replace(row[0], "{\n", "{\n name corp\n", 1)+"directory authentication {\n name "+name+"\n provider scribbler on\n}\n", 401, "ended: the directory "+name+" has another URL")
		status("as it was again", row[0], 200, "valid")
	}
}

// TestOIDCFormerAccountNames checks that an account keeps what was given to its
// former name, which began with the issuer.
func TestOIDCFormerAccountNames(t *testing.T) {
	issuer := oidctest.New(t)
	raw := issuer.Token()
	s := start(t, issuer.Directory("map repository_owner acme -> acme"), private("acme"))
	s.addSecrets(raw)
	h := runningHandler(t)
	who, err := h.accounts.Authenticate(t.Context(), directory.Login{Name: "ci", Password: raw})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{who.Name: true, issuer.URL + "#" + who.Name: true, issuer.URL + "#other": false, "other": false, "https://else.example#" + who.Name: false} {
		now, err := h.accounts.Current(t.Context(), tokenissuer.Identity{Name: name, Directory: "oidc", Facts: who.Facts})
		if (err == nil) != want || err == nil && now.ID() != who.ID() {
			t.Errorf("%s: got account %s, error %v; want one of %s: %v", name, now.ID(), err, who.ID(), want)
		}
	}
}

// TestTokenOfGitLabAccount checks that a personal token has the current rights
// of its owner at GitLab, and that a group that exists only at GitLab can have
// tokens of this site.
func TestTokenOfGitLabAccount(t *testing.T) {
	g, _, _ := gitlabtest.NewAcme(t)
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 100))
	s := startWithAdmin(t, gitlabAt(t, g, shortCacheFor, "members_only off"), hub(up))
	s.addSecrets(gitlabtest.ServiceToken)
	secret, _ := s.createToken("--account", "Alice")
	limited, _ := s.createToken("--account", "alice", "--group", "acme/sub")
	deploy, _ := s.createToken("--group", "others")
	personal := basic("x", secret)
	for group, status := range map[string][3]int{
		"acme": {200, 403, 403}, "acme/sub": {200, 200, 403}, "inner": {200, 403, 403}, "open": {200, 200, 200}, "others": {403, 403, 200}, "none": {403, 403, 403},
	} {
		s.expectPull(group, status[0], personal)
		s.expectPull(group, status[1], basic("x", limited))
		s.expectPull(group, status[2], basic("x", deploy))
	}
	awaits := func(what, group string, status int) {
		t.Helper()
		eventually(t, what, func() bool { return s.get(manifestPath(group, "alpine", "3.20"), personal).StatusCode == status })
	}
	g.Change(func() { delete(g.Groups[1].Members, 24) })
	awaits("who has left the group is refused", "acme", 403)
	g.Change(func() { g.Groups[1].Members[24] = &gitlabtest.Member{Level: 30} })
	awaits("who is back is not", "acme", 200)
	g.Change(func() { g.Users[24].State = "blocked" })
	awaits("who is blocked at GitLab is nobody", "inner", 401)
	s.expectPull("open", 200, personal) // as without a login
	s.expectPull("others", 200, basic("x", deploy))
}
