package caddymodule

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/password"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/ldaptest"
)

// TestWrongLoginDuringOutage checks that a wrong login of an account of the
// configuration is answered like any other while a directory is away or too
// many passwords are being checked, and that it is counted as a guess and
// logged.
func TestWrongLoginDuringOutage(t *testing.T) {
	s := newSite(t)
	s.globals = trustedProxies
	s.load(users("alice"), "directory elsewhere", private("acme", "alice"))
	seen := 0
	elsewhereAway.Store(true)
	defer elsewhereAway.Store(false)
	s.auditLines(&seen)
	alike := func() {
		t.Helper()
		for _, how := range []func(name string) answer{
			func(name string) answer { return s.get(auth, basic(name, "x")) },
			func(name string) answer { return s.get("/v2/", basic(name, "x")) },
			func(name string) answer { return s.get("/jwt/auth", form(loginForm(name, "x"))) },
		} {
			var answers []string
			for _, name := range []string{"alice", "nobody"} {
				a := how(name).expect(t, http.StatusServiceUnavailable, "UNAVAILABLE").has(t, "Retry-After", "10").has(t, "WWW-Authenticate", "")
				a.Header.Del("Date")
				answers = append(answers, fmt.Sprintf("%d %v %s", a.StatusCode, a.Header, a.body))
			}
			if answers[0] != answers[1] {
				t.Errorf("got %s for an account, want %s as for an unknown name", answers[0], answers[1])
			}
		}
	}
	alike()
	if got := s.auditLines(&seen); !slices.Equal(got, slices.Repeat([]string{"warn|login refused|alice|static||wrong password"}, 3)) {
		t.Errorf("got the audit lines %q, want 3 wrong passwords of alice", got)
	}
	for i := range 2 * (documentedAccountBurst + 5) {
		name, i := []string{"alice", "nobody"}[i%2], i/2
		want := http.StatusServiceUnavailable
		if i >= documentedAccountBurst-2 { // one guess was above, and repetitions count a tenth
			want = http.StatusTooManyRequests
		}
		if a := s.get(auth, basic(name, fmt.Sprint("guess", i)), forwardedFor(fmt.Sprint("198.51.100.", i))); a.StatusCode != want {
			t.Errorf("%s, guess %d: got %d, want %d", name, i, a.StatusCode, want)
		}
	}
	s.restart(users("alice"), "directory elsewhere", private("acme", "alice")) // forgets the guesses
	elsewhereAway.Store(false)
	t.Cleanup(setPasswordQueue(password.NewQueue(1, 0, password.MaxWaiting)))
	alike()
}

// TestThrottleDuringOutage checks that an outage permits no more guesses,
// neither from an address with an earlier login nor from one address at many
// accounts.
func TestThrottleDuringOutage(t *testing.T) {
	s := newSite(t)
	s.globals = trustedProxies
	s.load(users("alice"), "directory elsewhere", private("acme", "alice"))
	home, strange := forwardedFor("198.51.100.1"), forwardedFor("198.51.100.2")
	s.get(auth, as("alice"), home).expect(t, http.StatusOK, "")
	elsewhereAway.Store(true)
	defer elsewhereAway.Store(false)
	for i := range documentedAddressBurst {
		s.get(auth, basic("alice", fmt.Sprint("guess", i)), home).expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
		s.get(auth, basic(fmt.Sprint("user", i), "guess"), strange).expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	}
	s.get(auth, basic("alice", "another"), home).expect(t, http.StatusTooManyRequests, "TOOMANYREQUESTS")
	s.get(auth, basic("mallory", "guess"), strange).expect(t, http.StatusTooManyRequests, "TOOMANYREQUESTS")
	s.get(auth, as("alice"), home).expect(t, http.StatusOK, "") // the owner gets in
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
			s := ldapSite(t, users("alice"), block(l)) // there is an alice at the server too
			s.get("/v2/", as("bob")).expect(t, http.StatusOK, "")
			ask := func(name, password string) (dns, filters []string) {
				l.Heard()
				s.get("/v2/", basic(name, password)).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
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
	s := ldapSite(t, users("dave"), l.Directory("pool 1", "cache_for 1h", "timeout 1m"))
	hold := make(chan struct{})
	l.Set(func() { l.Fault = func(uint64) { <-hold } })
	names := []string{"dave", "bob", "nobody"}
	concurrently(len(names)+1, func(i int) {
		name, password, began := "alice", passwordOf("alice"), time.Now()
		if i < len(names) {
			name, password = names[i], "wrong"
		}
		s.get(auth, basic(name, password)).expect(t, http.StatusServiceUnavailable, "UNAVAILABLE").has(t, "Retry-After", "10")
		if took := time.Since(began); took < 100*time.Millisecond || took > 20*time.Second {
			t.Errorf("%s: got an answer after %s, want one after 100ms", name, took)
		}
	})
	close(hold)
	eventually(t, "the right login is known", func() bool { return s.get(auth, as("alice")).StatusCode == http.StatusOK })
	eventually(t, "the wrong ones are known", func() bool {
		return !slices.ContainsFunc(names, func(name string) bool { return s.get(auth, basic(name, "wrong")).StatusCode != http.StatusUnauthorized })
	})
}
