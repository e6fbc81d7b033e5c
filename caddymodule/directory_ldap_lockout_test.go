package caddymodule

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// TestLDAPTokensNotBound: what has the shape of a token counts against the address
// alone, so the server is not asked to take it for the password of an account: else
// guesses of that shape could lock the account there.
func TestLDAPTokensNotBound(t *testing.T) {
	l := newLDAP(t, true)
	for name, directory := range map[string]string{
		"by search": l.directory(),
		"alone":     "directory ldap " + l.url() + " {\n tls_trust_pool file " + l.ca + "\n user_dn uid=%s," + ldapPeople + "\n}\n",
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.globals = trustFront
			s.secret(ldapPassword)
			s.load(directory, private("acme"))
			l.heard()
			for i := range 3 * accountBurst {
				guess := basic("alice", fmt.Sprintf("ghp_%040d", i))
				s.get(auth, guess, from(fmt.Sprint("198.51.100.", i/20))).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
			}
			dns, _ := l.heard()
			if n := strings.Count(strings.Join(dns, "\n"), "uid=alice"); n != 0 {
				t.Errorf("got %d binds as alice, want none", n)
			}
			s.get(auth, as("alice"), from("203.0.113.1")).expect(t, http.StatusOK, "")
		})
	}
}

// TestLDAPStormSparesMembers: while strangers' logins wait for the server, a member's
// pull that has to ask it does not wait behind them.
func TestLDAPStormSparesMembers(t *testing.T) {
	defer func(before loginTimes) { answerLogins = before }(answerLogins)
	answerLogins = loginTimes{time.Millisecond, time.Millisecond}
	l := newLDAP(t, true)
	s := newSite(t)
	s.globals = trustFront
	s.secret(ldapPassword)
	s.load(l.directory("pool 2", "cache_for 1ns"), visible("acme", Internal))
	var token string
	eventually(t, "alice has logged in", func() bool {
		a := s.get(auth, as("alice"), from("192.0.2.1"))
		if a.StatusCode == http.StatusOK {
			token = a.tokens().Token
		}
		return token != ""
	})
	var asked atomic.Int64
	l.set(func() {
		l.fault = func(uint64) {
			asked.Add(1)
			time.Sleep(20 * time.Millisecond)
		}
	})
	const storm = 150
	together(storm, func(i int) {
		s.get(auth, basic(fmt.Sprint("user", i), "wrong"), from(fmt.Sprint("198.51.100.", i))).expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	})
	before := asked.Load()
	s.get("/v2/", bearer(token), from("192.0.2.1")).expect(t, http.StatusOK, "")
	if n := asked.Load() - before; n > 20 {
		t.Errorf("the server was asked %d questions before the member's", n)
	}
	l.set(func() { l.fault = nil })
}
