package caddymodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/ldaptest"
)

// TestBlockedNames checks that a bare name is blocked in each directory and in
// each spelling, with Basic credentials and with a token issued before, and
// that a name with a directory is blocked only there.
func TestBlockedNames(t *testing.T) {
	l := ldaptest.New(t, true)
	l.Put("uid=\uff2d\u00e4x,"+ldaptest.People, "uid", "\uff2d\u00e4x", "userPassword", "secret-of-max", "entryUUID", "uuid-max")
	lines := []string{"user m\u00e4x " + sitetest.Hash(sitetest.PasswordOf("alice")), l.Directory(), sitetest.Private("acme")}
	s := sitetest.Start(t, lines...)
	of := map[string]sitetest.RequestOption{"static": sitetest.Basic("m\u00e4x", sitetest.PasswordOf("alice")), "ldap": sitetest.Basic("\uff2d\u00e4x", "secret-of-max")}
	tokens := map[string]sitetest.RequestOption{}
	for directory, who := range of {
		tokens[directory] = sitetest.Bearer(s.Get(sitetest.Auth, who).Expect(t, http.StatusOK, "").Tokens().Token)
	}
	for blocked, want := range map[string][2]int{ // static, ldap
		"m\u00e4x": {401, 401}, "MA\u0308X": {401, 401}, "\uff2d\u00c4\uff38": {401, 401}, "max": {200, 200},
		"ldap:m\u00e4x": {200, 401}, "static:M\u00c4X": {401, 200}, "static:max": {200, 200},
	} {
		s.Load(append(lines, "blocked "+blocked)...)
		for i, directory := range []string{"static", "ldap"} {
			for _, who := range []sitetest.RequestOption{of[directory], tokens[directory]} {
				if got := s.Get("/v2/", who).StatusCode; got != want[i] {
					t.Errorf("with %q blocked, %s: got %d, want %d", blocked, directory, got, want[i])
				}
			}
		}
	}
}

// TestCommandsNameAccounts checks that commands name accounts as the
// configuration does, and that the error about an ambiguous bare name shows
// what to write.
func TestCommandsNameAccounts(t *testing.T) {
	l := ldaptest.New(t, true)
	s := sitetest.StartWithAdmin(t, sitetest.Users("alice"), l.Directory(), sitetest.Private("acme", "alice"))
	for as, want := range map[string]string{
		"alice": "allowed: member", "static:alice": "allowed: member", "ldap:alice": "denied: not a member", "ldap:nobody": "denied: unknown account",
		"static:bob": "denied: unknown account", "ldap:bob": "denied: not a member",
		"bob": "write `--as static:bob` or `--as ldap:bob`", "corp:bob": "unknown directory 'corp'; write `--as static:bob` or `--as ldap:bob`", "ldap:": "missing account name",
	} {
		out, err := s.Command("explain", "--as", as, "--pull", "acme/alpine")
		if text := fmt.Sprint(out, err); !strings.Contains(text, want) {
			t.Errorf("%s: got %q, want %q in it", as, text, want)
		}
	}
	_, own := s.CreateToken("--account", "alice")
	_, theirs := s.CreateToken("--account", "ldap:alice")
	for query, want := range map[string][2]bool{"static:alice": {true, false}, "ldap:alice": {false, true}, "alice": {true, true}, "ldap:bob": {false, false}} {
		list := string(s.Ask(http.MethodGet, sitetest.AdminTokens+"?account="+url.QueryEscape(query), "").Data)
		if got := [2]bool{strings.Contains(list, own), strings.Contains(list, theirs)}; got != want {
			t.Errorf("tokens of %s: got %v, want %v", query, got, want)
		}
	}
	if table := s.MustCommand("token", "list"); !strings.Contains(sitetest.LineContaining(table, own), " static:alice ") || !strings.Contains(sitetest.LineContaining(table, theirs), " ldap:alice ") {
		t.Errorf("token list prints %s, want the accounts with their directories", table)
	}
	if out, err := s.Command("token", "create", "--account", "bob"); err == nil || !strings.Contains(err.Error(), "write `--account static:bob` or `--account ldap:bob`") {
		t.Errorf("got error %v and %s, want an error with what to write", err, out)
	}
	for _, account := range []string{"static", "ldap"} {
		if line := `"account":"alice","directory":"` + account + `","by":"admin API"`; !strings.Contains(s.Logs(), line) {
			t.Errorf("the log lacks %s", line)
		}
	}
}

// TestGroupTokenAsMember checks that a group's token can be given roles and
// blocked as token:ID.
func TestGroupTokenAsMember(t *testing.T) {
	s := sitetest.StartWithAdmin(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"))
	secret, id := s.CreateToken("--group", "acme", "--role", "member", "--scope", "manage")
	purge := func(want int, lines ...string) {
		t.Helper()
		s.Load(append(lines, sitetest.Users("alice"))...)
		s.Get("/acme/dependency_proxy/cache", sitetest.Method(http.MethodDelete), sitetest.Basic("", secret)).Expect(t, want, map[int]string{401: "UNAUTHORIZED", 403: "DENIED"}[want])
	}
	purge(403, sitetest.Private("acme"))
	purge(202, "group acme {\n maintainers token:"+id+"\n}\n")
	purge(401, sitetest.Private("acme"), "blocked token:"+id)
}

// TestAccountNamesInJSON checks that names of directories and accounts in JSON
// are validated as those in a Caddyfile are.
func TestAccountNamesInJSON(t *testing.T) {
	for config, want := range map[string]string{
		`{"directories":[{"type":"static","users":[{"name":"alice"}]},{"type":"elsewhere"}],"groups":[{"path":"acme","owners":["bob"]}]}`:                                 "group acme: owners bob: ambiguous, because the site has several directories",
		`{"directories":[{"type":"elsewhere"},{"type":"elsewhere"}],"groups":[{"path":"acme"}]}`:                                                                          "duplicate directory name 'elsewhere'",
		`{"directories":[{"type":"static","name":"tokens"}],"groups":[{"path":"acme"}]}`:                                                                                  "name 'tokens' is reserved",
		`{"directories":[{"type":"tokens"}],"groups":[{"path":"acme"}]}`:                                                                                                  "name 'tokens' is reserved",
		`{"directories":[{"type":"oidc","issuer":"https://ci.example.com"}],"groups":[{"path":"acme"}],"blocked":["ci.example.com#7"]}`:                                   "blocked ci.example.com#7: names of accounts from ID tokens no longer begin with the issuer; write `blocked oidc:7`",
		`{"directories":[{"type":"oidc","issuer":"https://ci.example.com"}],"groups":[{"path":"acme"}],"admins":["ci.example.com#7"]}`:                                    "write `admins oidc:7`",
		`{"directories":[{"type":"oidc","issuer":"https://ci.example.com"}],"groups":[{"path":"acme"}],"admins":["elsewhere.example.com#7"]}`:                             "",
		`{"directories":[{"type":"static"},{"type":"oidc","name":"ci","issuer":"http://[::1]:81/x"}],"groups":[{"path":"acme","owners":["http://[::1]:81/x#repo:a/b"]}]}`: "write `owners ci:repo:a/b`",
		`{"directories":[{"type":"static","name":"a:b"}],"groups":[{"path":"acme"}]}`:                                                                                     "invalid directory name 'a:b'",
		`{"directories":[{"type":"oidc","prefix":""}],"groups":[{"path":"acme"}]}`:                                                                                        "prefix has been removed",
		`{"directories":[{"type":"authentication","prefix":"x"}],"groups":[{"path":"acme"}]}`:                                                                             "prefix has been removed",
		`{"directories":[{"type":"static"}],"groups":[{"path":"acme","members_from":["gitlab"]}]}`:                                                                        "group acme: members_from gitlab",
		`{"directories":[{"type":"static"}],"groups":[{"path":"acme"}],"admins":["ldap:root"]}`:                                                                           "admins ldap:root: unknown directory 'ldap'",
		`{"directories":[{"type":"static"}],"groups":[{"path":"acme"}],"blocked":["ldap:root"]}`:                                                                          "blocked ldap:root: unknown directory 'ldap'",
		`{"directories":[{"type":"static"}],"groups":[{"path":"acme","members":["alice"]}],"admins":["static:root"],"blocked":["any"]}`:                                   "",
	} {
		h := new(Handler)
		if err := json.Unmarshal([]byte(config), h); err != nil {
			t.Fatal(err)
		}
		if err := h.check(); (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", config, err, want)
		}
	}
}
