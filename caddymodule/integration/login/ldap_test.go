package login

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/ldaptest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestLDAPDirectory checks that users log in by search and bind, that groups
// give roles, and that changes apply at the next request after cache_for.
func TestLDAPDirectory(t *testing.T) {
	up := registrytest.New(t)
	l := ldaptest.New(t, true)
	l.Group("platform", "alice", "bob")
	l.Group("ops", "carol")
	l.Group("tool makers", "bob")
	lines := []string{sitetest.Hub(up), l.Directory("cache_for 1ns",
		"map CN=Platform,ou=groups,dc=example,dc=com -> acme", `map "cn=tool makers, ou=Groups, dc=example, dc=com" -> tools owner`,
		"admins cn=ops,ou=groups,dc=example,dc=com")}
	s := sitetest.LdapSite(t, lines...)
	tokens := map[string]string{}
	for _, name := range []string{"alice", "bob", "carol"} {
		tokens[name] = s.Token(name)
	}
	for _, row := range []struct {
		name, group string
		status      int
	}{
		{"alice", "acme", 404}, {"alice", "acme/sub", 403}, {"alice", "tools", 403}, {"bob", "acme", 404}, {"bob", "tools", 404},
		{"carol", "acme", 404}, {"carol", "tools", 404}, {"carol", "none", 403},
	} {
		for _, who := range []sitetest.RequestOption{sitetest.Bearer(tokens[row.name]), sitetest.As(row.name)} {
			if status := sitetest.PullStatus(s, row.group, who); status != row.status {
				t.Errorf("%s in %s: got %d, want %d", row.name, row.group, status, row.status)
			}
		}
	}
	for _, who := range []sitetest.RequestOption{sitetest.Basic("alice", "wrong"), sitetest.Basic("nobody", sitetest.PasswordOf("alice")), sitetest.Basic("alice", sitetest.PasswordOf("bob")), sitetest.Basic("*", sitetest.PasswordOf("alice"))} {
		s.Get("/v2/", who).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	}

	l.Group("platform", "bob") // alice leaves the group
	if status := sitetest.PullStatus(s, "acme", sitetest.Bearer(tokens["alice"])); status != http.StatusForbidden {
		t.Errorf("alice, who has left the group: got %d, want 403", status)
	}
	l.Remove("uid=bob," + ldaptest.People) // bob leaves
	for _, who := range []sitetest.RequestOption{sitetest.Bearer(tokens["bob"]), sitetest.As("bob")} {
		s.Get("/v2/", who).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	}
	l.Put("uid=bob,"+ldaptest.People, "uid", "bob", "userPassword", "another", "entryUUID", "uuid-other") // another bob comes
	s.Get("/v2/", sitetest.Bearer(tokens["bob"])).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	s.Get("/v2/", sitetest.Basic("bob", "another")).Expect(t, http.StatusOK, "")
	s.Load(append(lines, sitetest.Private("acme"), sitetest.Private("tools"), "blocked carol")...)
	s.Get("/v2/", sitetest.Bearer(tokens["carol"])).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	if n := len(l.Clear); n > 0 {
		t.Errorf("got %d operations without encryption, want none", n)
	}
}

// TestLDAPNames checks that names are compared as LDAP does, that the account
// has the name in its entry, and that no name changes a filter or a DN.
func TestLDAPNames(t *testing.T) {
	l := ldaptest.New(t, true)
	l.Put("uid=Zoe,"+ldaptest.People, "uid", "Zoe", "mail", "zoe@example.com", "userPassword", sitetest.PasswordOf("Zoe"))
	l.Put("cn=two,"+ldaptest.People, "uid", "two", "uid", "zwei", "userPassword", "x")
	l.Put("cn=bad,"+ldaptest.People, "uid", "bad name:", "userPassword", "x")
	l.Put("cn=twin1,"+ldaptest.People, "uid", "twin", "userPassword", "x")
	l.Put("cn=twin2,"+ldaptest.People, "uid", "twin", "userPassword", "x")
	l.Put("cn=moved,"+ldaptest.People, "uid", "twin", "mail", "moved@example.com", "userPassword", "x")
	s := sitetest.LdapSite(t, l.Directory("user_filter (|(uid=%s)(mail=%s))", "map cn=x,dc=example,dc=com -> acme"))
	s.AddSecrets(sitetest.PasswordOf("Zoe"))
	for _, name := range []string{"Zoe", "zoe", "ZOE", "zoe@example.com"} {
		s.Get("/v2/", sitetest.Basic(name, sitetest.PasswordOf("Zoe"))).Expect(t, http.StatusOK, "")
	}
	if !strings.Contains(s.Logs(), `"user_id":"Zoe"`) || strings.Contains(s.Logs(), `"user_id":"zoe`) {
		t.Error("the log lacks the user Zoe, or has one of another spelling")
	}
	for name, status := range map[string]int{"two": 503, "bad": 401, "twin": 401, "moved@example.com": 503} {
		if a := s.Get("/v2/", sitetest.Basic(name, "x")); a.StatusCode != status {
			t.Errorf("%s: got %d, want %d", name, a.StatusCode, status)
		}
	}
	for _, message := range []string{"has 2 values of uid", "user_filter finds more than one entry", "finds it by both"} {
		if !strings.Contains(s.Logs(), message) {
			t.Errorf("the log does not say %q", message)
		}
	}
	l.Heard()
	for name, escaped := range map[string]string{
		"*": `\2a`, "a*": `a\2a`, "alice)(uid=*": `alice\29\28uid=\2a`, `alice)(|(uid=*`: `alice\29\28|\28uid=\2a`, `a\2a`: `a\5c2a`, "%s": "%s", "é": `\c3\a9`,
	} {
		s.Get("/v2/", sitetest.Basic(name, sitetest.PasswordOf("alice"))).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		dns, filters := l.Heard()
		if want := []string{"(|(uid=" + escaped + ")(mail=" + escaped + "))"}; !slices.Equal(filters, want) || slices.ContainsFunc(dns, func(dn string) bool { return dn != ldaptest.ServiceDN }) {
			t.Errorf("%s: got searches %q and binds %q, want searches %q and binds of the service", name, filters, dns, want)
		}
	}
	for _, bad := range []sitetest.RequestOption{
		sitetest.Basic("alice", ""), sitetest.Basic("", "x"), sitetest.Basic("alice\x00", sitetest.PasswordOf("alice")), sitetest.Basic("alice", "\x00"), sitetest.Basic("alice", sitetest.PasswordOf("alice")+"\x00"),
		sitetest.Basic("al\nice", "x"), sitetest.Basic("\xff", "x"), sitetest.Basic(strings.Repeat("a", 257), "x"),
	} {
		s.Get("/v2/", bad).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	}
	if dns, filters := l.Heard(); len(dns)+len(filters) > 0 {
		t.Errorf("got searches %q and binds %q, want none", filters, dns)
	}
}

// TestLDAPWithoutServiceAccount checks that without a service account roles are
// those of the login, and that no name leads to the DN of another account.
func TestLDAPWithoutServiceAccount(t *testing.T) {
	up := registrytest.New(t)
	l := ldaptest.New(t, false)
	l.Group("platform", "alice")
	directory := func(lines ...string) string {
		lines = append([]string{"starttls on", "tls_trust_pool file " + l.Ca, "user_dn uid=%s," + ldaptest.People}, lines...)
		return "directory ldap " + l.URL() + " {\n" + strings.Join(lines, "\n") + "\n}\n"
	}
	mapped := directory("group_base_dn ou=groups,dc=example,dc=com", "map cn=platform,ou=groups,dc=example,dc=com -> acme", "cache_for 1ns")
	s := sitetest.LdapSite(t, sitetest.Hub(up), mapped)
	token := s.Token("alice")
	for _, who := range []sitetest.RequestOption{sitetest.Bearer(token), sitetest.As("alice"), sitetest.Basic("ALICE", sitetest.PasswordOf("alice"))} {
		if status := sitetest.PullStatus(s, "acme", who); status != http.StatusNotFound {
			t.Errorf("alice: got %d, want 404", status)
		}
	}
	if status := sitetest.PullStatus(s, "acme", sitetest.As("bob")); status != http.StatusForbidden {
		t.Errorf("bob: got %d, want 403", status)
	}
	l.Group("platform") // the token has the former groups, a new login the current ones
	if status := sitetest.PullStatus(s, "acme", sitetest.Bearer(token)); status != http.StatusNotFound {
		t.Errorf("alice by her token: got %d, want 404", status)
	}
	if status := sitetest.PullStatus(s, "acme", sitetest.As("alice")); status != http.StatusForbidden {
		t.Errorf("alice by her login: got %d, want 403", status)
	}
	// The current map lines apply to tokens issued before.
	s.Load(sitetest.Hub(up), directory(), sitetest.Private("acme"), sitetest.Private("tools"))
	if status := sitetest.PullStatus(s, "acme", sitetest.Bearer(token)); status != http.StatusForbidden {
		t.Errorf("alice, whose group is not mapped: got %d, want 403", status)
	}
	l.Heard()
	for name, dn := range map[string]string{
		"alice,dc=example": `uid=alice\,dc=example,` + ldaptest.People, "alice+cn=x": `uid=alice\+cn\=x,` + ldaptest.People, " alice ": `uid=\ alice\ ,` + ldaptest.People,
		`a"b\c<d>;#`: `uid=a\"b\\c\<d\>\;#,` + ldaptest.People, "%s": "uid=%s," + ldaptest.People,
	} {
		s.Get("/v2/", sitetest.Basic(name, sitetest.PasswordOf("alice"))).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		if dns, _ := l.Heard(); len(dns) != 1 || !ldaptest.SameDN(dns[0], dn) {
			t.Errorf("%s: got binds as %q, want %q", name, dns, dn)
		}
	}
	for _, bad := range []sitetest.RequestOption{sitetest.Basic("alice", ""), sitetest.Basic("alice", "\x00"), sitetest.Basic("", "x")} {
		s.Get("/v2/", bad).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	}
	if dns, _ := l.Heard(); len(dns) > 0 {
		t.Errorf("got binds as %q without a password, want none", dns)
	}
	if len(l.Clear) > 0 {
		t.Errorf("got operations %q without encryption, want none", l.Clear)
	}
}

// TestLDAPLoginTime checks that an unknown name takes as long as a wrong
// password, and that a right password is remembered.
func TestLDAPLoginTime(t *testing.T) {
	const price = 30 * time.Millisecond // of the server's hash
	l := ldaptest.New(t, true)
	l.Set(func() {
		l.Fault = func(tag uint64) {
			if tag == ldap.ApplicationBindRequest {
				time.Sleep(price)
			}
		}
	})
	s := sitetest.LdapSite(t, l.Directory("map cn=x,dc=example,dc=com -> acme"))
	for i := range 5 {
		for _, name := range []string{"alice", "nobody"} {
			begin := time.Now()
			s.Get("/v2/", sitetest.Basic(name, fmt.Sprint("wrong", i))).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
			if took := time.Since(begin); took < price {
				t.Errorf("%s: got a refusal after %v, want at least %v", name, took, price)
			}
		}
	}
	s.Get("/v2/", sitetest.As("alice")).Expect(t, http.StatusOK, "")
	l.Heard()
	for range 20 {
		s.Get("/v2/", sitetest.As("alice")).Expect(t, http.StatusOK, "")
	}
	if dns, filters := l.Heard(); len(dns)+len(filters) > 0 {
		t.Errorf("got binds %q and searches %q for a remembered login, want none", dns, filters)
	}
}

// TestLDAPRecycledName checks that an access token belongs to an entry, and
// ends when another entry gets its name.
func TestLDAPRecycledName(t *testing.T) {
	l := ldaptest.New(t, true)
	s := sitetest.StartWithAdmin(t, l.Directory("cache_for 1ns"), sitetest.Private("acme"))
	secret, _ := s.CreateToken("--account", "bob")
	s.Get("/v2/", sitetest.Basic("x", secret)).Expect(t, http.StatusOK, "")
	l.Remove("uid=bob," + ldaptest.People)
	s.Get("/v2/", sitetest.Basic("x", secret)).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	l.Put("uid=bob,"+ldaptest.People, "uid", "bob", "userPassword", "another", "entryUUID", "uuid-other")
	s.Get("/v2/", sitetest.Basic("x", secret)).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
}
