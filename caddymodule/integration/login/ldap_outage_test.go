package login

import (
	"cmp"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/ldaptest"
)

// ldapMap is a line that gives a group a role.
const ldapMap = "map cn=platform,ou=groups,dc=example,dc=com -> acme"

// TestLDAPOutage checks that during an outage of the server remembered answers
// are used for the grace period, even after a reload, and all other logins
// fail. When the server is back, its current state applies.
func TestLDAPOutage(t *testing.T) {
	l := ldaptest.New(t, true)
	l.Group("platform", "alice")
	lines := []string{l.Directory(ldapMap, "cache_for 1ns", "grace 1h")}
	s := sitetest.LdapSite(t, lines...)
	token := s.Token("alice")
	s.Get("/v2/", sitetest.As("alice")).Expect(t, http.StatusOK, "")
	bob := s.Token("bob")
	l.Remove("uid=bob," + ldaptest.People)
	s.Get("/v2/", sitetest.Bearer(bob)).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")

	l.Stop()
	for range 3 {
		s.Get("/v2/", sitetest.Bearer(token)).Expect(t, http.StatusOK, "")
		s.Get("/v2/", sitetest.As("alice")).Expect(t, http.StatusOK, "")
		s.Get("/v2/", sitetest.Bearer(bob)).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		s.Get("/v2/", sitetest.As("carol")).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
		s.Get("/v2/", sitetest.Basic("alice", "wrong")).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
		s.Load(append(lines, "blocked dave")...)
	}
	if n := strings.Count(s.Logs(), "the LDAP server cannot be asked"); n == 0 || n > 4 {
		t.Errorf("got %d log lines that the server is away, want 1 to 4", n) // once for each configuration
	}
	// Answers remembered with another grace period are not used.
	s.Load(l.Directory(ldapMap, "cache_for 1ns", "grace 1ms"), sitetest.Private("acme"))
	s.Get("/v2/", sitetest.Bearer(token)).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE").Has(t, "Retry-After", "10")

	l.Start()
	sitetest.Eventually(t, "the server is asked again", func() bool { return s.Get("/v2/", sitetest.Bearer(token)).StatusCode == http.StatusOK })
	s.Get("/v2/", sitetest.As("carol")).Expect(t, http.StatusOK, "")
	s.Get("/v2/", sitetest.Basic("alice", "wrong")).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	if !strings.Contains(s.Logs(), "answers again") {
		t.Error("the log lacks that the server is back")
	}
}

// TestLDAPFaults checks that with any fault of the server or mistake in the
// configuration logins fail soon, and that the log says why.
func TestLDAPFaults(t *testing.T) {
	other := ldaptest.New(t, true)
	for name, row := range map[string]struct {
		change func(l *ldaptest.Server)
		lines  string
		log    string
	}{
		"slow": {func(l *ldaptest.Server) {
			l.Fault = func(uint64) { time.Sleep(time.Second) }
		}, "timeout 50ms", "timed out"},
		"cut": {func(l *ldaptest.Server) {
			l.Fault = func(uint64) {
				l.Set(func() {
					for conn := range l.Conns {
						_ = conn.Close()
					}
				})
			}
		}, "", "unable to read"},
		"wrong password of the service": {func(l *ldaptest.Server) { l.Refuse[ldaptest.ServiceDN] = ldap.LDAPResultInvalidCredentials }, "", "binding as bind_dn"},
		"a referral":                    {func(l *ldaptest.Server) { l.Refuse["uid=alice,"+ldaptest.People] = ldap.LDAPResultReferral }, "", "Referral"},
		"busy":                          {func(l *ldaptest.Server) { l.Refuse["uid=alice,"+ldaptest.People] = ldap.LDAPResultBusy }, "", "Busy"},
		"another certificate":           {func(l *ldaptest.Server) { l.Cert = other.Cert }, "", "certificate"},
		"another name":                  {func(*ldaptest.Server) {}, "timeout 15s\n tls_server_name ldap.example.com", "certificate"},
		"too many groups": {func(l *ldaptest.Server) {
			for i := range 1001 {
				l.Entries = append(l.Entries, ldap.NewEntry(fmt.Sprintf("cn=g%d,ou=groups,dc=example,dc=com", i), map[string][]string{"member": {"uid=alice," + ldaptest.People}}))
			}
		}, "", "more than 1000 groups"},
		"too much": {func(l *ldaptest.Server) {
			l.Entries = append(l.Entries, ldap.NewEntry("uid=alice,ou=more,"+ldaptest.People, map[string][]string{"uid": {"alice"}, "entryUUID": {strings.Repeat("x", 4<<20)}}))
		}, "", "unable to read"},
	} {
		t.Run(name, func(t *testing.T) {
			l := ldaptest.New(t, true)
			l.Set(func() { row.change(l) })
			s := sitetest.LdapSite(t, l.Directory(ldapMap, cmp.Or(row.lines, "timeout 15s")))
			begin := time.Now()
			s.Get("/v2/", sitetest.As("alice")).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("the login took %v, want less than the timeout", took)
			}
			if !strings.Contains(s.Logs(), row.log) {
				t.Errorf("the log does not say %q", row.log)
			}
			if dns, _ := l.Heard(); strings.Contains(name, "another") && len(dns) > 0 {
				t.Errorf("got binds as %q, want none", dns)
			}
		})
	}
}

// TestLDAPStartTLS checks that nothing is sent without encryption, whichever
// side fails to encrypt.
func TestLDAPStartTLS(t *testing.T) {
	l := ldaptest.New(t, false)
	s := sitetest.LdapSite(t, l.Directory("starttls on", ldapMap))
	s.Get("/v2/", sitetest.As("alice")).Expect(t, http.StatusOK, "")
	for what, change := range map[string]func(){
		"refused":             func() { l.Refuse[""] = ldap.LDAPResultProtocolError },
		"another certificate": func() { l.Cert = ldaptest.New(t, true).Cert },
	} {
		l.Set(change)
		l.Heard()
		s.Load(l.Directory("starttls on", ldapMap, "grace 1h"), sitetest.Private(map[bool]string{true: "a", false: "b"}[what == "refused"]))
		s.Get("/v2/", sitetest.As("bob")).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
		if dns, _ := l.Heard(); len(dns) > 0 {
			t.Errorf("%s: got binds as %q, want none", what, dns)
		}
		l.Set(func() { delete(l.Refuse, "") })
	}
	if len(l.Clear) > 0 {
		t.Errorf("got operations %q without encryption, want none", l.Clear)
	}
	s.Load(strings.Replace(l.Directory("insecure on", ldapMap), "tls_trust_pool file "+l.Ca, "", 1))
	s.Get("/v2/", sitetest.As("bob")).Expect(t, http.StatusOK, "")
}

// TestLDAPSecret checks that a password that cannot be read is an error at
// load, and that it is never shown.
func TestLDAPSecret(t *testing.T) {
	l := ldaptest.New(t, true)
	s := sitetest.NewSite(t)
	for placeholder, what := range map[string]string{"{env.NOT_SET}": "NOT_SET", "{file./none}": "/none", ldaptest.ServicePassword: "placeholder"} {
		err := s.TryLoad(strings.Replace(l.Directory(ldapMap), "{env.LDAP_PASSWORD}", placeholder, 1), sitetest.Private("acme"))
		if err == nil || !strings.Contains(err.Error(), what) || strings.Contains(err.Error(), ldaptest.ServicePassword) {
			t.Errorf("%s: got %v, want %q and no password", placeholder, err, what)
		}
	}
	if config, err := s.Adapt(l.Directory(ldapMap), sitetest.Private("acme")); err != nil || strings.Contains(string(config), ldaptest.ServicePassword) {
		t.Errorf("got %v and %s, want no error and no password", err, config)
	}
}
