package caddymodule

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"
)

// ldapMapped is a line that makes groups count.
const ldapMapped = "map cn=platform,ou=groups,dc=example,dc=com -> acme"

// TestLDAPAway: while the server is away, what is known stands for the grace,
// over a reload too, and nothing else gets in. When it is back, all is as it
// is there.
func TestLDAPAway(t *testing.T) {
	l := newLDAP(t, true)
	l.group("platform", "alice")
	lines := []string{l.directory(ldapMapped, "cache_for 1ns", "grace 1h")}
	s := ldapSite(t, lines...)
	token := s.token("alice")
	s.get("/v2/", as("alice")).expect(t, http.StatusOK, "")
	bob := s.token("bob")
	l.remove("uid=bob," + ldapPeople)
	s.get("/v2/", bearer(bob)).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")

	l.stop()
	for range 3 {
		s.get("/v2/", bearer(token)).expect(t, http.StatusOK, "")
		s.get("/v2/", as("alice")).expect(t, http.StatusOK, "")
		s.get("/v2/", bearer(bob)).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
		s.get("/v2/", as("carol")).expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
		s.get("/v2/", loginAs("alice", "wrong")).expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
		s.load(append(lines, "blocked dave")...)
	}
	if n := strings.Count(s.logs(), "the LDAP server cannot be asked"); n == 0 || n > 4 {
		t.Errorf("it is logged %d times that the server is away", n) // once for each configuration
	}
	// Another grace, another memory: nothing is known by it.
	s.load(l.directory(ldapMapped, "cache_for 1ns", "grace 1ms"), private("acme"))
	s.get("/v2/", bearer(token)).expect(t, http.StatusServiceUnavailable, "UNAVAILABLE").has(t, "Retry-After", "10")

	l.start()
	eventually(t, "the server is asked again", func() bool { return s.get("/v2/", bearer(token)).StatusCode == http.StatusOK })
	s.get("/v2/", as("carol")).expect(t, http.StatusOK, "")
	s.get("/v2/", loginAs("alice", "wrong")).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	if !strings.Contains(s.logs(), "answers again") {
		t.Error("the log does not tell that it is back")
	}
}

// TestLDAPGraceEnds: no known answer outlives the grace.
func TestLDAPGraceEnds(t *testing.T) {
	l := newLDAP(t, true)
	s := ldapSite(t, l.directory(ldapMapped, "cache_for 1ns", "grace 300ms"))
	token := s.token("alice")
	l.stop()
	begin := time.Now()
	for _, who := range []with{bearer(token), as("alice")} {
		eventually(t, "the grace ends", func() bool { return s.get("/v2/", who).StatusCode == http.StatusServiceUnavailable })
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("the grace has taken %v", took)
	}
}

// TestLDAPConnections: there are no more than the pool has, one that breaks is
// replaced without anybody noticing, and a reload leaves none behind.
func TestLDAPConnections(t *testing.T) {
	l := newLDAP(t, true)
	l.set(func() { l.fault = func(uint64) { time.Sleep(2 * time.Millisecond) } })
	lines := []string{l.directory(ldapMapped, "cache_for 1ns", "grace 1ms", "pool 3")}
	s := ldapSite(t, lines...)
	count := func() (open, most, made int) {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.conns), l.most, l.made
	}
	together(30, func(i int) {
		name := []string{"alice", "bob", "carol"}[i%3]
		status := http.StatusOK
		who := as(name)
		if i%2 == 0 {
			who, status = loginAs(name, fmt.Sprint("wrong", i)), http.StatusUnauthorized
		}
		s.get("/v2/", who).expect(t, status, "UNAUTHORIZED"[:len("UNAUTHORIZED")*(status/401)])
	})
	if open, most, made := count(); most > 3 || open > 3 || made > 3 {
		t.Errorf("%d connections, %d at once, %d in all", open, most, made)
	}
	l.set(func() {
		for conn := range l.conns {
			_ = conn.Close() // as a server does with idle ones
		}
	})
	s.get("/v2/", as("alice")).expect(t, http.StatusOK, "")
	// Cut in the middle of an answer, once.
	var once sync.Once
	l.set(func() {
		l.fault = func(tag uint64) {
			if tag == ldap.ApplicationSearchRequest {
				once.Do(func() {
					l.set(func() {
						for conn := range l.conns {
							_ = conn.Close()
						}
					})
				})
			}
		}
	})
	s.get("/v2/", as("alice")).expect(t, http.StatusOK, "")
	if strings.Contains(s.logs(), "cannot be asked") {
		t.Error("a connection that was replaced is told of")
	}
	s.load(append(lines, private("acme"))...)
	eventually(t, "the old connections are closed", func() bool { open, _, _ := count(); return open == 0 })
}

// TestLDAPFaults: whatever is wrong with the server or with what is configured,
// nobody gets in, it does not take long, and the log tells.
func TestLDAPFaults(t *testing.T) {
	other := newLDAP(t, true)
	for name, row := range map[string]struct {
		change func(l *ldapServer)
		lines  string
		log    string
	}{
		"slow": {func(l *ldapServer) {
			l.fault = func(uint64) { time.Sleep(time.Second) }
		}, "timeout 50ms", "timed out"},
		"cut": {func(l *ldapServer) {
			l.fault = func(uint64) {
				l.set(func() {
					for conn := range l.conns {
						_ = conn.Close()
					}
				})
			}
		}, "", "unable to read"},
		"wrong password of the service": {func(l *ldapServer) { l.refuse[ldapService] = ldap.LDAPResultInvalidCredentials }, "", "binding as bind_dn"},
		"a referral":                    {func(l *ldapServer) { l.refuse["uid=alice,"+ldapPeople] = ldap.LDAPResultReferral }, "", "Referral"},
		"busy":                          {func(l *ldapServer) { l.refuse["uid=alice,"+ldapPeople] = ldap.LDAPResultBusy }, "", "Busy"},
		"another certificate":           {func(l *ldapServer) { l.cert = other.cert }, "", "certificate"},
		"another name":                  {func(*ldapServer) {}, "tls_server_name ldap.example.com", "certificate"},
		"too many groups": {func(l *ldapServer) {
			for i := range 1001 {
				l.entries = append(l.entries, ldap.NewEntry(fmt.Sprintf("cn=g%d,ou=groups,dc=example,dc=com", i), map[string][]string{"member": {"uid=alice," + ldapPeople}}))
			}
		}, "", "more than 1000 groups"},
		"too much": {func(l *ldapServer) {
			l.entries = append(l.entries, ldap.NewEntry("uid=alice,ou=more,"+ldapPeople, map[string][]string{"uid": {"alice"}, "entryUUID": {strings.Repeat("x", 4<<20)}}))
		}, "", "unable to read"},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLDAP(t, true)
			l.set(func() { row.change(l) })
			s := ldapSite(t, l.directory(ldapMapped, row.lines))
			begin := time.Now()
			s.get("/v2/", as("alice")).expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
			if took := time.Since(begin); took > 3*time.Second {
				t.Errorf("it has taken %v", took)
			}
			if !strings.Contains(s.logs(), row.log) {
				t.Errorf("the log does not say %q", row.log)
			}
			if dns, _ := l.heard(); strings.Contains(name, "another") && len(dns) > 0 {
				t.Errorf("bound as %q", dns)
			}
		})
	}
}

// TestLDAPRefusals: answers of the server that say no, in its own ways.
func TestLDAPRefusals(t *testing.T) {
	l := newLDAP(t, true)
	s := ldapSite(t, l.directory(ldapMapped))
	for _, code := range []uint16{
		ldap.LDAPResultInvalidCredentials, ldap.LDAPResultInappropriateAuthentication, ldap.LDAPResultNoSuchObject,
		ldap.LDAPResultInsufficientAccessRights, ldap.LDAPResultConstraintViolation, ldap.LDAPResultUnwillingToPerform,
	} {
		l.set(func() { l.refuse["uid=alice,"+ldapPeople] = code })
		s.get("/v2/", as("alice")).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	}
}

// TestLDAPStartTLS: without encryption nothing is said, by whoever's fault.
func TestLDAPStartTLS(t *testing.T) {
	l := newLDAP(t, false)
	s := ldapSite(t, l.directory("starttls on", ldapMapped))
	s.get("/v2/", as("alice")).expect(t, http.StatusOK, "")
	for what, change := range map[string]func(){
		"refused":             func() { l.refuse[""] = ldap.LDAPResultProtocolError },
		"another certificate": func() { l.cert = newLDAP(t, true).cert },
	} {
		l.set(change)
		l.heard()
		s.load(l.directory("starttls on", ldapMapped, "grace 1h"), private(map[bool]string{true: "a", false: "b"}[what == "refused"]))
		s.get("/v2/", as("bob")).expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
		if dns, _ := l.heard(); len(dns) > 0 {
			t.Errorf("%s: bound as %q", what, dns)
		}
		l.set(func() { delete(l.refuse, "") })
	}
	if len(l.clear) > 0 {
		t.Errorf("not encrypted: %q", l.clear)
	}
	s.load(strings.Replace(l.directory("insecure on", ldapMapped), "tls_trust_pool file "+l.ca, "", 1))
	s.get("/v2/", as("bob")).expect(t, http.StatusOK, "")
}

// TestLDAPServers: the next server is asked where one is away.
func TestLDAPServers(t *testing.T) {
	l, away := newLDAP(t, true), newLDAP(t, true)
	away.stop()
	s := ldapSite(t, strings.Replace(l.directory(ldapMapped, "cache_for 1ns"), "directory ldap", "directory ldap "+away.url(), 1))
	for range 3 {
		s.get("/v2/", as("alice")).expect(t, http.StatusOK, "")
		l.set(func() {
			for conn := range l.conns {
				_ = conn.Close()
			}
		})
	}
}

// TestLDAPSecret: a password that cannot be had is found before any login.
func TestLDAPSecret(t *testing.T) {
	l := newLDAP(t, true)
	s := newSite(t)
	for placeholder, what := range map[string]string{"{env.NOT_SET}": "NOT_SET", "{file./none}": "/none", ldapPassword: "placeholder"} {
		err := s.tryLoad(strings.Replace(l.directory(ldapMapped), "{env.LDAP_PASSWORD}", placeholder, 1), private("acme"))
		if err == nil || !strings.Contains(err.Error(), what) || strings.Contains(err.Error(), ldapPassword) {
			t.Errorf("%s: %v", placeholder, err)
		}
	}
	if config, err := s.adapt(l.directory(ldapMapped), private("acme")); err != nil || strings.Contains(string(config), ldapPassword) {
		t.Errorf("%v, or the password is in %s", err, config)
	}
}
