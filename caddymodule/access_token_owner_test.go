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
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
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
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	lines := []string{sitetest.Users("alice", "bob"), "group acme {\n owners alice\n}\n", sitetest.Hub(up)}
	s := sitetest.StartWithAdmin(t, lines...)
	personal, id := s.CreateToken("--account", "static:alice", "--scope", "manage", "--lifetime", "2h")
	make := func(who sitetest.RequestOption) admin.CreatedToken {
		t.Helper()
		var made admin.CreatedToken
		a := s.Get("/acme/dependency_proxy/tokens", who, sitetest.JSONBody(http.MethodPost, `{"kind":"group","role":"owner","lifetime":"1h"}`)).Expect(t, http.StatusCreated, "")
		if err := json.Unmarshal(a.Data, &made); err != nil {
			t.Fatal(err)
		}
		s.AddSecrets(made.Secret)
		return made
	}
	child, own := make(sitetest.Basic("", personal)), make(sitetest.As("alice"))
	if child.MadeWith != id || own.MadeWith != "" || child.CreatedBy != "static:alice" {
		t.Errorf("got tokens created with %q and %q by %q, want %q, none and static:alice", child.MadeWith, own.MadeWith, child.CreatedBy, id)
	}
	bought := sitetest.Bearer(s.Get(sitetest.Auth, sitetest.Basic("", child.Secret)).Expect(t, http.StatusOK, "").Tokens().Token)
	status := func(what string, want, wantOwn int) {
		t.Helper()
		for name, who := range map[string]sitetest.RequestOption{"Basic": sitetest.Basic("", child.Secret), "Bearer": bought} {
			if got := s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), who).StatusCode; got != want {
				t.Errorf("%s, by %s: got %d, want %d", what, name, got, want)
			}
		}
		if got := s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.Basic("", own.Secret)).StatusCode; got != wantOwn {
			t.Errorf("%s, the token made with a password: got %d, want %d", what, got, wantOwn)
		}
	}
	status("at first", 200, 200)
	s.Load(append(lines, "blocked alice")...)
	status("while the account is blocked", 401, 200)
	s.Load(lines...)
	status("when it is not any more", 200, 200)
	out := s.MustCommand("token", "revoke", id)
	if want := fmt.Sprintf("group token %s for owner of acme ends too, because it was created with %s.", child.ID, id); !strings.Contains(out, want) || strings.Contains(out, own.ID) {
		t.Errorf("token revoke prints %q, want %q in it", out, want)
	}
	status("after revoking", 401, 200)
	var revoked access.RevokedToken
	if a := s.Ask(http.MethodDelete, sitetest.AdminTokens+"/"+id, ""); json.Unmarshal(a.Data, &revoked) != nil || len(revoked.AlsoEnded) != 1 || revoked.AlsoEnded[0].ID != child.ID {
		t.Errorf("got %s, want the token %s as the only one that ends too", a.Data, child.ID)
	}
	if table := s.MustCommand("token", "list"); !strings.Contains(table, "ended: it was made with "+id+": the access token has been revoked") {
		t.Errorf("token list prints %s, want the token that the ended one was created with", table)
	}
	if logs := s.Logs(); !strings.Contains(logs, "was made with "+id) {
		t.Errorf("the log lacks %q", "was made with "+id)
	}
}

// TestTokenChainIsLimited checks that all tokens of a chain, each created with
// the one before, end with the first, and that the length of a chain is
// limited.
func TestTokenChainIsLimited(t *testing.T) {
	s := sitetest.StartWithAdmin(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"))
	h := runningHandler(t)
	_, first := s.CreateToken("--group", "acme")
	ids := []string{first}
	for range sitetest.DocumentedMakers + 1 {
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
	if n := good(); n != sitetest.DocumentedMakers+1 {
		t.Errorf("got %d good tokens of %d, want %d", n, len(ids), sitetest.DocumentedMakers+1)
	}
	revoked, err := h.tokens.Revoke(t.Context(), first, "a test", func(accesstoken.Token) bool { return true })
	if err != nil || len(revoked.AlsoEnded) != sitetest.DocumentedMakers || good() != 0 {
		t.Errorf("got %d tokens that end too, %d good ones and error %v, want %d, none and none", len(revoked.AlsoEnded), good(), err, sitetest.DocumentedMakers)
	}
}

// storeToken writes a personal token into the storage, as an earlier version
// has created it.
func storeToken(s *sitetest.Site, owner accesstoken.Owner) (secret, id string) {
	s.T.Helper()
	token, secret, err := tokens.All()[0].Create(s.T.Context(), accesstoken.Token{
		Kind: accesstoken.Personal, Owner: &owner, Scopes: []accesstoken.Scope{accesstoken.Pull},
	}, time.Hour)
	if err != nil {
		s.T.Fatal(err)
	}
	s.AddSecrets(secret)
	return secret, token.ID
}

// TestTokensOfEarlierVersions checks that a personal token of an earlier
// version, which names only the type of its owner's directory, stays valid if
// that directory is unambiguous and ends otherwise, which is logged once and
// shown by the list.
func TestTokensOfEarlierVersions(t *testing.T) {
	l, g := ldaptest.New(t, true), gitlabtest.New(t)
	g.AddUser(1, "alice")
	fixed := []string{sitetest.Users("alice"), sitetest.GitlabAt(t, g), sitetest.Private("acme")}
	s := sitetest.StartWithAdmin(t, append(fixed, l.Directory())...)
	tokens := map[string][2]string{}
	for _, directory := range []string{"static", "ldap", "gitlab", "ldap-2", "elsewhere"} {
		secret, id := storeToken(s, accesstoken.Owner{Name: "alice", Directory: directory})
		tokens[directory] = [2]string{secret, id}
	}
	child, _, err := runningHandler(t).tokens.Create(t.Context(), access.TokenRequest{Kind: accesstoken.Deploy, Groups: []string{"acme"}, MadeWith: tokens["ldap"][1]}, "a test")
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, good ...string) {
		t.Helper()
		table := s.MustCommand("token", "list")
		for directory, token := range tokens {
			want, state := http.StatusUnauthorized, "it was created before directories had names"
			for _, name := range good {
				if name == directory {
					want, state = http.StatusOK, "valid"
				}
			}
			if got := s.Get("/v2/", sitetest.Basic("x", token[0])).StatusCode; got != want {
				t.Errorf("%s, a token of %s: got %d, want %d", what, directory, got, want)
			}
			if line := sitetest.LineContaining(table, token[1]); !strings.Contains(line, state) {
				t.Errorf("%s, a token of %s: it is listed as %q, want %q", what, directory, line, state)
			}
		}
	}
	check("with one directory of each kind", "static", "ldap", "gitlab")
	s.Load(append(fixed, l.Directory("name corp"))...)
	check("with another name of the directory", "static", "ldap", "gitlab")
	for range 2 {
		s.Load(append(fixed, l.Directory("name ldap"), l.Directory("name ldap-2"))...)
		check("with two directories of one kind", "static", "gitlab")
	}
	ended := `"msg":"access token has ended","access_token":"` + child.ID + `","kind":"deploy"`
	sitetest.Eventually(t, "the log tells of what was made with a token", func() bool { return strings.Count(s.Logs(), ended) == 1 })
	for directory, token := range tokens {
		want := 1
		if directory == "static" || directory == "gitlab" {
			want = 0
		}
		line := `"msg":"access token has ended","access_token":"` + token[1] + `"`
		sitetest.Eventually(t, "the log tells of the token of "+directory, func() bool { return strings.Count(s.Logs(), line) == want })
	}
}

// TestTokenEndsWithDirectory checks that a personal token ends when its owner's
// directory is replaced by another one of the same name, and is valid again
// when the old one is back.
func TestTokenEndsWithDirectory(t *testing.T) {
	l, g, other := ldaptest.New(t, true), gitlabtest.New(t), gitlabtest.New(t)
	g.AddUser(1, "alice")
	other.AddUser(1, "alice")
	s := sitetest.NewSite(t)
	s.OpenAdmin()
	files := [2]string{filepath.Join(s.Dir, "one"), filepath.Join(s.Dir, "two")}
	for _, file := range files {
		sitetest.WriteFile(t, file, sitetest.UsersText("alice"))
		sitetest.Backdate(t, file)
	}
	static := func(i int) string { return "directory static {\n users_file " + files[i] + "\n}\n" }
	for name, row := range map[string][2]string{
		"static": {static(0), static(1)},
		"ldap":   {l.Directory(), strings.Replace(l.Directory(), "base_dn dc=example", "base_dn ou=people,dc=example", 1)},
		"gitlab": {sitetest.GitlabAt(t, g), sitetest.GitlabAt(t, other)},
	} {
		s.Load(row[0], sitetest.Private("acme"))
		secret, id := s.CreateToken("--account", name+":alice")
		status := func(what, lines string, want int, state string) {
			t.Helper()
			s.Load(lines, sitetest.Private("acme"))
			if got := s.Get("/v2/", sitetest.Basic("x", secret)).StatusCode; got != want {
				t.Errorf("%s, %s: got %d, want %d", name, what, got, want)
			}
			if line := sitetest.LineContaining(s.MustCommand("token", "list"), id); !strings.Contains(line, state) {
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
	s := sitetest.Start(t, issuer.Directory("map repository_owner acme -> acme"), sitetest.Private("acme"))
	s.AddSecrets(raw)
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
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	s := sitetest.StartWithAdmin(t, sitetest.GitlabAt(t, g, sitetest.ShortCacheFor, "members_only off"), sitetest.Hub(up))
	s.AddSecrets(gitlabtest.ServiceToken)
	secret, _ := s.CreateToken("--account", "Alice")
	limited, _ := s.CreateToken("--account", "alice", "--group", "acme/sub")
	deploy, _ := s.CreateToken("--group", "others")
	personal := sitetest.Basic("x", secret)
	for group, status := range map[string][3]int{
		"acme": {200, 403, 403}, "acme/sub": {200, 200, 403}, "inner": {200, 403, 403}, "open": {200, 200, 200}, "others": {403, 403, 200}, "none": {403, 403, 403},
	} {
		s.ExpectPull(group, status[0], personal)
		s.ExpectPull(group, status[1], sitetest.Basic("x", limited))
		s.ExpectPull(group, status[2], sitetest.Basic("x", deploy))
	}
	awaits := func(what, group string, status int) {
		t.Helper()
		sitetest.Eventually(t, what, func() bool {
			return s.Get(sitetest.ManifestPath(group, "alpine", "3.20"), personal).StatusCode == status
		})
	}
	g.Change(func() { delete(g.Groups[1].Members, 24) })
	awaits("who has left the group is refused", "acme", 403)
	g.Change(func() { g.Groups[1].Members[24] = &gitlabtest.Member{Level: 30} })
	awaits("who is back is not", "acme", 200)
	g.Change(func() { g.Users[24].State = "blocked" })
	awaits("who is blocked at GitLab is nobody", "inner", 401)
	s.ExpectPull("open", 200, personal) // as without a login
	s.ExpectPull("others", 200, sitetest.Basic("x", deploy))
}
