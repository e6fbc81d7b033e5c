package login

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/password"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/ldaptest"
)

// TestWrongLoginDuringOutage checks that a wrong login of an account of the
// configuration is answered like any other while a directory is away or too
// many passwords are being checked, and that it is counted as a guess and
// logged.
func TestWrongLoginDuringOutage(t *testing.T) {
	s := sitetest.NewSite(t)
	s.Globals = sitetest.TrustedProxies
	s.Load(sitetest.Users("alice"), "directory elsewhere", sitetest.Private("acme", "alice"))
	seen := 0
	sitetest.ElsewhereAway.Store(true)
	defer sitetest.ElsewhereAway.Store(false)
	auditLines(s, &seen)
	alike := func() {
		t.Helper()
		for _, how := range []func(name string) sitetest.Answer{
			func(name string) sitetest.Answer { return s.Get(sitetest.Auth, sitetest.Basic(name, "x")) },
			func(name string) sitetest.Answer { return s.Get("/v2/", sitetest.Basic(name, "x")) },
			func(name string) sitetest.Answer {
				return s.Get("/jwt/auth", sitetest.Form(sitetest.LoginForm(name, "x")))
			},
		} {
			var answers []string
			for _, name := range []string{"alice", "nobody"} {
				a := how(name).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE").Has(t, "Retry-After", "10").Has(t, "WWW-Authenticate", "")
				a.Header.Del("Date")
				answers = append(answers, fmt.Sprintf("%d %v %s", a.StatusCode, a.Header, a.Data))
			}
			if answers[0] != answers[1] {
				t.Errorf("got %s for an account, want %s as for an unknown name", answers[0], answers[1])
			}
		}
	}
	alike()
	if got := auditLines(s, &seen); !slices.Equal(got, slices.Repeat([]string{"warn|login refused|alice|static||wrong password"}, 3)) {
		t.Errorf("got the audit lines %q, want 3 wrong passwords of alice", got)
	}
	for i := range 2 * (sitetest.DocumentedAccountBurst + 5) {
		name, i := []string{"alice", "nobody"}[i%2], i/2
		want := http.StatusServiceUnavailable
		if i >= sitetest.DocumentedAccountBurst-2 { // one guess was above, and repetitions count a tenth
			want = http.StatusTooManyRequests
		}
		if a := s.Get(sitetest.Auth, sitetest.Basic(name, fmt.Sprint("guess", i)), sitetest.ForwardedFor(fmt.Sprint("198.51.100.", i))); a.StatusCode != want {
			t.Errorf("%s, guess %d: got %d, want %d", name, i, a.StatusCode, want)
		}
	}
	s.Restart(sitetest.Users("alice"), "directory elsewhere", sitetest.Private("acme", "alice")) // forgets the guesses
	sitetest.ElsewhereAway.Store(false)
	t.Cleanup(sitetest.SetPasswordQueue(password.NewQueue(1, 0, password.MaxWaiting)))
	alike()
}

// TestThrottleDuringOutage checks that an outage permits no more guesses,
// neither from an address with an earlier login nor from one address at many
// accounts.
func TestThrottleDuringOutage(t *testing.T) {
	s := sitetest.NewSite(t)
	s.Globals = sitetest.TrustedProxies
	s.Load(sitetest.Users("alice"), "directory elsewhere", sitetest.Private("acme", "alice"))
	home, strange := sitetest.ForwardedFor("198.51.100.1"), sitetest.ForwardedFor("198.51.100.2")
	s.Get(sitetest.Auth, sitetest.As("alice"), home).Expect(t, http.StatusOK, "")
	sitetest.ElsewhereAway.Store(true)
	defer sitetest.ElsewhereAway.Store(false)
	for i := range sitetest.DocumentedAddressBurst {
		s.Get(sitetest.Auth, sitetest.Basic("alice", fmt.Sprint("guess", i)), home).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
		s.Get(sitetest.Auth, sitetest.Basic(fmt.Sprint("user", i), "guess"), strange).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	}
	s.Get(sitetest.Auth, sitetest.Basic("alice", "another"), home).Expect(t, http.StatusTooManyRequests, "TOOMANYREQUESTS")
	s.Get(sitetest.Auth, sitetest.Basic("mallory", "guess"), strange).Expect(t, http.StatusTooManyRequests, "TOOMANYREQUESTS")
	s.Get(sitetest.Auth, sitetest.As("alice"), home).Expect(t, http.StatusOK, "") // the owner gets in
}

// TestLDAPBehindStatic checks that a wrong password for a name of the
// configuration costs the LDAP server as much as an unknown name, and that the
// account of that name is not tried there.
func TestLDAPBehindStatic(t *testing.T) {
	for name, block := range map[string]func(*ldaptest.Server) string{
		"search": func(l *ldaptest.Server) string { return l.Directory() },
		"no service account": func(l *ldaptest.Server) string {
			return "directory ldap " + l.URL() + " {\n tls_trust_pool file " + l.Ca + "\n user_dn uid=%s," + ldaptest.People + "\n}\n"
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := ldaptest.New(t, true)
			s := sitetest.LdapSite(t, sitetest.Users("alice"), block(l)) // there is an alice at the server too
			s.Get("/v2/", sitetest.As("bob")).Expect(t, http.StatusOK, "")
			ask := func(name, password string) (dns, filters []string) {
				l.Heard()
				s.Get("/v2/", sitetest.Basic(name, password)).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
				return l.Heard()
			}
			for i := range 3 {
				wrong := fmt.Sprint("wrong", i)
				dns, filters := ask("alice", wrong)
				dnsUnknown, filtersUnknown := ask("stranger", wrong)
				if len(dns) != len(dnsUnknown) || len(filters) != len(filtersUnknown) || len(dns)+len(filters) == 0 {
					t.Errorf("got binds %q and searches %q for an account, want as many as for an unknown name: %q, %q", dns, filters, dnsUnknown, filtersUnknown)
				}
				if asked := fmt.Sprint(dns, filters); strings.Contains(asked, "alice") || !strings.Contains(asked, "nobody-") {
					t.Errorf("got the questions %s to the server, want an invented name", asked)
				}
			}
		})
	}
}

// TestLDAPSaturated checks that wrong logins are answered after the same time
// while the server does not answer, whichever directory knows their names, and
// that afterwards all are refused and a right one succeeds at once.
func TestLDAPSaturated(t *testing.T) {
	defer func(before access.Times) { access.LoginTimes = before }(access.LoginTimes)
	access.LoginTimes = access.Times{Failed: 100 * time.Millisecond, Checked: 100 * time.Millisecond}
	l := ldaptest.New(t, true)
	s := sitetest.LdapSite(t, sitetest.Users("dave"), l.Directory("pool 1", "cache_for 1h", "timeout 1m"))
	hold := make(chan struct{})
	l.Set(func() { l.Fault = func(uint64) { <-hold } })
	names := []string{"dave", "bob", "nobody"}
	sitetest.Concurrently(len(names)+1, func(i int) {
		name, password, began := "alice", sitetest.PasswordOf("alice"), time.Now()
		if i < len(names) {
			name, password = names[i], "wrong"
		}
		s.Get(sitetest.Auth, sitetest.Basic(name, password)).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE").Has(t, "Retry-After", "10")
		if took := time.Since(began); took < 100*time.Millisecond || took > 20*time.Second {
			t.Errorf("%s: got an answer after %s, want one after 100ms", name, took)
		}
	})
	close(hold)
	sitetest.Eventually(t, "the right login is known", func() bool { return s.Get(sitetest.Auth, sitetest.As("alice")).StatusCode == http.StatusOK })
	sitetest.Eventually(t, "the wrong ones are known", func() bool {
		return !slices.ContainsFunc(names, func(name string) bool {
			return s.Get(sitetest.Auth, sitetest.Basic(name, "wrong")).StatusCode != http.StatusUnauthorized
		})
	})
}
