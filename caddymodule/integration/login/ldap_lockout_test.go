package login

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/ldaptest"
)

// TestLDAPTokensAreNotBound checks that a password in the form of a token, which
// is counted by address only, is never sent to the server, where many guesses
// could lock the account.
func TestLDAPTokensAreNotBound(t *testing.T) {
	l := ldaptest.New(t, true)
	for name, directory := range map[string]string{
		"by search": l.Directory(),
		"alone":     "directory ldap " + l.URL() + " {\n tls_trust_pool file " + l.Ca + "\n user_dn uid=%s," + ldaptest.People + "\n}\n",
	} {
		t.Run(name, func(t *testing.T) {
			s := sitetest.NewSite(t)
			s.Globals = sitetest.TrustedProxies
			s.AddSecrets(ldaptest.ServicePassword)
			s.Load(directory, sitetest.Private("acme"))
			l.Heard()
			for i := range 3 * sitetest.DocumentedAccountBurst {
				guess := sitetest.Basic("alice", fmt.Sprintf("ghp_%040d", i))
				s.Get(sitetest.Auth, guess, sitetest.ForwardedFor(fmt.Sprint("198.51.100.", i/20))).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
			}
			dns, _ := l.Heard()
			if n := strings.Count(strings.Join(dns, "\n"), "uid=alice"); n != 0 {
				t.Errorf("got %d binds as alice, want none", n)
			}
			s.Get(sitetest.Auth, sitetest.As("alice"), sitetest.ForwardedFor("203.0.113.1")).Expect(t, http.StatusOK, "")
		})
	}
}

// TestLDAPFloodSparesMembers checks that questions about a member do not wait
// behind a flood of logins from unknown addresses.
func TestLDAPFloodSparesMembers(t *testing.T) {
	l := ldaptest.New(t, true)
	s := sitetest.NewSite(t)
	s.Globals = sitetest.TrustedProxies
	s.AddSecrets(ldaptest.ServicePassword)
	lines := []string{l.Directory("pool 2", "cache_for 1ns"), sitetest.Visible("acme", directory.Internal)}
	s.Load(lines...)
	token := s.Get(sitetest.Auth, sitetest.As("alice"), sitetest.ForwardedFor("192.0.2.1")).Expect(t, http.StatusOK, "").Tokens().Token
	defer func(before access.Times) { access.LoginTimes = before }(access.LoginTimes)
	access.LoginTimes = access.Times{Failed: time.Millisecond, Checked: time.Millisecond} // the flood waits for no answer
	s.Restart(lines...)
	var asked atomic.Int64
	l.Set(func() {
		l.Fault = func(uint64) {
			asked.Add(1)
			time.Sleep(20 * time.Millisecond)
		}
	})
	const storm = 150
	sitetest.Concurrently(storm, func(i int) {
		s.Get(sitetest.Auth, sitetest.Basic(fmt.Sprint("user", i), "wrong"), sitetest.ForwardedFor(fmt.Sprint("198.51.100.", i))).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	})
	before := asked.Load()
	s.Get("/v2/", sitetest.Bearer(token), sitetest.ForwardedFor("192.0.2.1")).Expect(t, http.StatusOK, "")
	if n := asked.Load() - before; n > 20 {
		t.Errorf("got %d questions before the one of the member, want at most 20", n)
	}
	l.Set(func() { l.Fault = nil })
}
