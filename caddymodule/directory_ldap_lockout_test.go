package caddymodule

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
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
