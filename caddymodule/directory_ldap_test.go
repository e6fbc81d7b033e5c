package caddymodule

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/go-ldap/ldap/v3"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// ldapSite starts a site with groups that nobody is a member of but by LDAP.
func ldapSite(t testing.TB, lines ...string) *site {
	s := newSite(t)
	s.secret(ldapPassword)
	s.load(append(lines, private("acme"), private("tools"))...)
	return s
}

func loginAs(name, password string) with {
	return func(r *http.Request) { r.SetBasicAuth(name, password) }
}

// status of what a request to the registry gets that goes no further than the
// decision: 404 for an image that a group may pull and upstream does not have.
func pulls(s *site, group string, who with) int {
	s.t.Helper()
	return s.get(manifestPath(group, "alpine", "3.20"), who).StatusCode
}

// TestLDAP: a login by search and bind, roles by groups, and at each request
// the directory as it was cache_for ago at most.
func TestLDAP(t *testing.T) {
	up := registrytest.New(t)
	l := newLDAP(t, true)
	l.group("platform", "alice", "bob")
	l.group("ops", "carol")
	l.group("tool makers", "bob")
	lines := []string{hub(up), l.directory("cache_for 1ns",
		"map CN=Platform,ou=groups,dc=example,dc=com -> acme", `map "cn=tool makers, ou=Groups, dc=example, dc=com" -> tools owner`,
		"admins cn=ops,ou=groups,dc=example,dc=com")}
	s := ldapSite(t, lines...)
	tokens := map[string]string{}
	for _, name := range []string{"alice", "bob", "carol"} {
		tokens[name] = s.token(name)
	}
	for _, row := range []struct {
		name, group string
		status      int
	}{
		{"alice", "acme", 404}, {"alice", "acme/sub", 403}, {"alice", "tools", 403}, {"bob", "acme", 404}, {"bob", "tools", 404},
		{"carol", "acme", 404}, {"carol", "tools", 404}, {"carol", "none", 403},
	} {
		for _, who := range []with{bearer(tokens[row.name]), as(row.name)} {
			if status := pulls(s, row.group, who); status != row.status {
				t.Errorf("%s in %s: %d instead of %d", row.name, row.group, status, row.status)
			}
		}
	}
	for _, who := range []with{loginAs("alice", "wrong"), loginAs("nobody", password("alice")), loginAs("alice", password("bob")), loginAs("*", password("alice"))} {
		s.get("/v2/", who).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	}

	l.group("platform", "bob") // alice leaves the group
	if status := pulls(s, "acme", bearer(tokens["alice"])); status != http.StatusForbidden {
		t.Errorf("alice has left, and gets %d", status)
	}
	l.remove("uid=bob," + ldapPeople) // bob leaves
	for _, who := range []with{bearer(tokens["bob"]), as("bob")} {
		s.get("/v2/", who).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	}
	l.put("uid=bob,"+ldapPeople, "uid", "bob", "userPassword", "another", "entryUUID", "uuid-other") // another bob comes
	s.get("/v2/", bearer(tokens["bob"])).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	s.get("/v2/", loginAs("bob", "another")).expect(t, http.StatusOK, "")
	s.load(append(lines, private("acme"), private("tools"), "blocked carol")...)
	s.get("/v2/", bearer(tokens["carol"])).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	if n := len(l.clear); n > 0 {
		t.Errorf("%d operations were not encrypted", n)
	}
}

// TestLDAPNames: names are compared as LDAP does, the account is called what
// the entry says, and whatever a name is made of, it is not part of a filter or
// of a DN.
func TestLDAPNames(t *testing.T) {
	l := newLDAP(t, true)
	l.put("uid=Zoe,"+ldapPeople, "uid", "Zoe", "mail", "zoe@example.com", "userPassword", password("Zoe"))
	l.put("cn=two,"+ldapPeople, "uid", "two", "uid", "zwei", "userPassword", "x")
	l.put("cn=bad,"+ldapPeople, "uid", "bad name:", "userPassword", "x")
	l.put("cn=twin1,"+ldapPeople, "uid", "twin", "userPassword", "x")
	l.put("cn=twin2,"+ldapPeople, "uid", "twin", "userPassword", "x")
	l.put("cn=moved,"+ldapPeople, "uid", "twin", "mail", "moved@example.com", "userPassword", "x")
	s := ldapSite(t, l.directory("user_filter (|(uid=%s)(mail=%s))", "map cn=x,dc=example,dc=com -> acme"))
	s.secret(password("Zoe"))
	for _, name := range []string{"Zoe", "zoe", "ZOE", "zoe@example.com"} {
		s.get("/v2/", loginAs(name, password("Zoe"))).expect(t, http.StatusOK, "")
	}
	if !strings.Contains(s.logs(), `"user_id":"Zoe"`) || strings.Contains(s.logs(), `"user_id":"zoe`) {
		t.Error("the account is not called Zoe")
	}
	for name, status := range map[string]int{"two": 503, "bad": 401, "twin": 401, "moved@example.com": 503} {
		if a := s.get("/v2/", loginAs(name, "x")); a.StatusCode != status {
			t.Errorf("%s: %d instead of %d", name, a.StatusCode, status)
		}
	}
	for _, message := range []string{"has 2 values of uid", "user_filter finds more than one entry", "must find it by both"} {
		if !strings.Contains(s.logs(), message) {
			t.Errorf("the log does not say %q", message)
		}
	}
	l.heard()
	for name, escaped := range map[string]string{
		"*": `\2a`, "a*": `a\2a`, "alice)(uid=*": `alice\29\28uid=\2a`, `alice)(|(uid=*`: `alice\29\28|\28uid=\2a`, `a\2a`: `a\5c2a`, "%s": "%s", "é": `\c3\a9`,
	} {
		s.get("/v2/", loginAs(name, password("alice"))).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		dns, filters := l.heard()
		if want := []string{"(|(uid=" + escaped + ")(mail=" + escaped + "))"}; !slices.Equal(filters, want) || slices.ContainsFunc(dns, func(dn string) bool { return dn != ldapService }) {
			t.Errorf("%s: searched for %q instead of %q, bound as %q", name, filters, want, dns)
		}
	}
	for _, bad := range []with{
		loginAs("alice", ""), loginAs("", "x"), loginAs("alice\x00", password("alice")), loginAs("alice", "\x00"), loginAs("alice", password("alice")+"\x00"),
		loginAs("al\nice", "x"), loginAs("\xff", "x"), loginAs(strings.Repeat("a", 257), "x"),
	} {
		s.get("/v2/", bad).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	}
	if dns, filters := l.heard(); len(dns)+len(filters) > 0 {
		t.Errorf("the server was asked %q, and to bind as %q", filters, dns)
	}
}

// TestLDAPBindAlone: without a service account a login tells all, and a name
// cannot lead to another DN than its own.
func TestLDAPBindAlone(t *testing.T) {
	up := registrytest.New(t)
	l := newLDAP(t, false)
	l.group("platform", "alice")
	directory := func(lines ...string) string {
		lines = append([]string{"starttls on", "tls_trust_pool file " + l.ca, "user_dn uid=%s," + ldapPeople}, lines...)
		return "directory ldap " + l.url() + " {\n" + strings.Join(lines, "\n") + "\n}\n"
	}
	mapped := directory("group_base_dn ou=groups,dc=example,dc=com", "map cn=platform,ou=groups,dc=example,dc=com -> acme", "cache_for 1ns")
	s := ldapSite(t, hub(up), mapped)
	token := s.token("alice")
	for _, who := range []with{bearer(token), as("alice"), loginAs("ALICE", password("alice"))} {
		if status := pulls(s, "acme", who); status != http.StatusNotFound {
			t.Errorf("alice gets %d", status)
		}
	}
	if status := pulls(s, "acme", as("bob")); status != http.StatusForbidden {
		t.Errorf("bob gets %d", status)
	}
	l.group("platform") // the token knows no better, a login does
	if status := pulls(s, "acme", bearer(token)); status != http.StatusNotFound {
		t.Errorf("alice gets %d by her token", status)
	}
	if status := pulls(s, "acme", as("alice")); status != http.StatusForbidden {
		t.Errorf("alice gets %d by her login", status)
	}
	// What a group is good for is the configuration's to say.
	s.load(hub(up), directory(), private("acme"), private("tools"))
	if status := pulls(s, "acme", bearer(token)); status != http.StatusForbidden {
		t.Errorf("alice gets %d where her group is not mapped", status)
	}
	l.heard()
	for name, dn := range map[string]string{
		"alice,dc=example": `uid=alice\,dc=example,` + ldapPeople, "alice+cn=x": `uid=alice\+cn\=x,` + ldapPeople, " alice ": `uid=\ alice\ ,` + ldapPeople,
		`a"b\c<d>;#`: `uid=a\"b\\c\<d\>\;#,` + ldapPeople, "%s": "uid=%s," + ldapPeople,
	} {
		s.get("/v2/", loginAs(name, password("alice"))).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		if dns, _ := l.heard(); len(dns) != 1 || !sameDN(dns[0], dn) {
			t.Errorf("%s: bound as %q instead of %q", name, dns, dn)
		}
	}
	for _, bad := range []with{loginAs("alice", ""), loginAs("alice", "\x00"), loginAs("", "x")} {
		s.get("/v2/", bad).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	}
	if dns, _ := l.heard(); len(dns) > 0 {
		t.Errorf("bound as %q without a password", dns)
	}
	if len(l.clear) > 0 {
		t.Errorf("not encrypted: %q", l.clear)
	}
}

// TestLDAPFacts: what a token tells of a login is believed for a day, and of
// groups that the configuration still maps.
func TestLDAPFacts(t *testing.T) {
	dn := "cn=platform,dc=example,dc=com"
	roles := newLDAPRoles([]*LDAPGroup{{DN: dn, Group: "acme", Role: "owner"}, {DN: "CN=Platform, DC=example, DC=com", Group: "tools"}, {DN: "cn=b,dc=x", Group: "acme"}}, []string{"cn=ops,dc=x"})
	login := time.Now()
	account := Account{Name: "alice", Version: "v"}
	ids := roles.give(&account, func(g ldapGroup) bool { return g.key == ldapKey(dn) })
	facts, err := ldapFacts(account, ids, login)
	if err != nil || len(ids) != 1 {
		t.Fatalf("%q, %v", ids, err)
	}
	known, err := roles.fromFacts("alice", facts, login.Add(23*time.Hour))
	if err != nil || known.Version != "v" || known.Admin || len(known.Mapped) != 2 || known.Mapped["acme"] != Owner || known.Mapped["tools"] != Member {
		t.Errorf("%+v, %v", known, err)
	}
	for _, bad := range []string{"", "x", "x v", "9999999999999999999999 v"} {
		if known, err := roles.fromFacts("alice", bad, login); !isRefusal(err) {
			t.Errorf("%q: %+v, %v", bad, known, err)
		}
	}
	if known, err := roles.fromFacts("alice", facts, login.Add(25*time.Hour)); !isRefusal(err) {
		t.Errorf("after a day: %+v, %v", known, err)
	}
	if known, err := ldapRoles(nil).fromFacts("alice", facts, login); err != nil || known.Mapped != nil {
		t.Errorf("without a mapping: %+v, %v", known, err)
	}
	for i := range 200 {
		ids = append(ids, ldapID(fmt.Sprint(i)))
	}
	if facts, err := ldapFacts(account, ids, login); err == nil {
		t.Errorf("facts of %d bytes", len(facts))
	}
}

// TestLDAPTime: an unknown name takes no less than the price of a wrong password,
// and a good password is not asked about again.
func TestLDAPTime(t *testing.T) {
	const price = 30 * time.Millisecond // of the server's hash
	l := newLDAP(t, true)
	l.set(func() {
		l.fault = func(tag uint64) {
			if tag == ldap.ApplicationBindRequest {
				time.Sleep(price)
			}
		}
	})
	s := ldapSite(t, l.directory("map cn=x,dc=example,dc=com -> acme"))
	for i := range 5 {
		for _, name := range []string{"alice", "nobody"} {
			begin := time.Now()
			s.get("/v2/", loginAs(name, fmt.Sprint("wrong", i))).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
			if took := time.Since(begin); took < price {
				t.Errorf("%s is refused after %v already", name, took)
			}
		}
	}
	s.get("/v2/", as("alice")).expect(t, http.StatusOK, "")
	l.heard()
	for range 20 {
		s.get("/v2/", as("alice")).expect(t, http.StatusOK, "")
	}
	if dns, filters := l.heard(); len(dns)+len(filters) > 0 {
		t.Errorf("asked again: %q, %q", dns, filters)
	}
}

// TestLDAPInJSON: what only JSON can say wrong is refused too.
func TestLDAPInJSON(t *testing.T) {
	good := LDAPDirectory{Servers: []string{"ldaps://ldap.example.com"}, UserDN: "uid=%s,dc=x", GroupBaseDN: "dc=x"}
	if err := good.check(); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func(*LDAPDirectory){
		"is null":       func(l *LDAPDirectory) { l.Map = []*LDAPGroup{nil} },
		"no DN":         func(l *LDAPDirectory) { l.Map = []*LDAPGroup{{Group: "acme"}} },
		"role 'no role": func(l *LDAPDirectory) { l.Map = []*LDAPGroup{{DN: "cn=x", Group: "acme", Role: "no role"}} },
		"is empty":      func(l *LDAPDirectory) { l.Admins = []string{""} },
		"negative":      func(l *LDAPDirectory) { l.Grace = -1 },
		"at least 1":    func(l *LDAPDirectory) { l.Pool = -1 },
		"verified":      func(l *LDAPDirectory) { l.TLS = &reverseproxy.TLSConfig{InsecureSkipVerify: true} },
		"the server":    func(l *LDAPDirectory) { l.Servers = nil },
	} {
		bad := LDAPDirectory{Servers: good.Servers, UserDN: good.UserDN, GroupBaseDN: good.GroupBaseDN}
		change(&bad)
		if err := bad.check(); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
