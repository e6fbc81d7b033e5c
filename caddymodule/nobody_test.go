package caddymodule

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// slowly is a directory that takes its time, and remembers whom it was asked
// about.
type slowly struct {
	Directory
	says  func(Login) error
	heard []string
}

const slowness = 3 * time.Second

func (s *slowly) Authenticate(_ context.Context, login Login) (Account, error) {
	time.Sleep(slowness)
	s.heard = append(s.heard, login.Name)
	return Account{Name: login.Name}, s.says(login)
}

// secretly is one that knows logins by their passwords.
type secretly struct{ *slowly }

func (secretly) takesTokens() {}

// slowHash is a comparer for which every password is wrong.
type slowHash struct{ n atomic.Int32 }

func (s *slowHash) Compare(_, _ []byte) (bool, error) {
	s.n.Add(1)
	time.Sleep(time.Second)
	return false, nil
}

func slowStatic(t *testing.T, h *slowHash, names ...string) *StaticDirectory {
	t.Helper()
	d := &StaticDirectory{hash: h}
	for _, name := range names {
		d.Users = append(d.Users, &StaticUser{Name: name, Hash: "x"})
	}
	if err := d.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	return d
}

// told is what of an error the client is told.
func told(err error) string {
	hidden := (*unsaid)(nil)
	switch {
	case err == nil:
		return "in"
	case errors.As(err, &hidden):
		return told(hidden.trouble)
	case isRefusal(err):
		return "wrong"
	case errors.Is(err, errBusy):
		return "busy"
	}
	return "away"
}

// TestEvenOut: wherever the name of a wrong login is known, or if it is not, the
// same directories are asked, one password is hashed, the answer is the same and
// takes the same, again and again. No directory hears a name of another one.
func TestEvenOut(t *testing.T) {
	wrongFor := func(known string) func(Login) error {
		return func(login Login) error {
			if login.Name == known {
				return ErrWrongPassword
			}
			return ErrUnknownAccount
		}
	}
	always := func(err error) func(Login) error { return func(Login) error { return err } }
	for name, row := range map[string]struct {
		first, second func(Login) error // of the directories between three static ones
		secret        bool              // the first is a secretDirectory
		told          string
		asked         [2]int
	}{
		"unknown":        {wrongFor("dora"), wrongFor("emma"), false, "wrong", [2]int{1, 1}},
		"blocked":        {always(ErrUnknownAccount), always(ErrBlocked), false, "wrong", [2]int{1, 1}},
		"cannot tell":    {always(ErrWrongPassword), wrongFor("emma"), false, "wrong", [2]int{1, 1}},
		"away":           {always(errors.New("away")), wrongFor("emma"), false, "away", [2]int{1, 0}},
		"one is away":    {wrongFor("dora"), always(errors.New("away")), false, "away", [2]int{1, 1}},
		"busy":           {always(errBusy), wrongFor("emma"), false, "busy", [2]int{1, 1}},
		"busy, and away": {always(errBusy), always(errors.New("away")), false, "away", [2]int{1, 1}},
		"a secret":       {always(ErrWrongPassword), wrongFor("emma"), true, "wrong", [2]int{1, 0}},
		"a blocked one":  {always(ErrBlocked), wrongFor("emma"), true, "wrong", [2]int{1, 0}},
		"not its secret": {always(ErrUnknownAccount), wrongFor("emma"), true, "wrong", [2]int{1, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := new(slowHash)
				first, second := &slowly{says: row.first}, &slowly{says: row.second}
				a := newAccounts(nil, nil)
				a.add("static", slowStatic(t, h, "ann", "al"))
				a.add("first", first)
				if row.secret {
					a.directories[1].Directory = secretly{first}
				}
				a.add("static", slowStatic(t, h, "bob"))
				a.add("second", second)
				a.add("static", slowStatic(t, h, "cleo"))
				for _, name := range []string{"ann", "bob", "cleo", "dora", "emma", "nobody", "ann", "nobody", "al"} {
					h.n.Store(0)
					first.heard, second.heard = nil, nil
					began := time.Now()
					_, err := a.authenticate(t.Context(), Login{Name: name, Password: rand.Text()})
					asked, took := [2]int{len(first.heard), len(second.heard)}, time.Since(began)
					want := time.Second + time.Duration(row.asked[0]+row.asked[1])*slowness
					if told(err) != row.told || h.n.Load() != 1 || asked != row.asked || took != want {
						t.Errorf("%s: %s (%v) after %v, %d hashes, and asking about %q and %q", name, told(err), err, took, h.n.Load(), first.heard, second.heard)
					}
					if heard := slices.Concat(first.heard, second.heard); (name == "ann" || name == "al") && slices.Contains(heard, name) {
						t.Errorf("of %s another directory has heard", name)
					}
				}
			})
		})
	}
}

// TestNobody: whoever knows a name of the configuration's and no password of it
// does not get in by one of another directory, whatever that takes for good.
func TestNobody(t *testing.T) {
	h := new(slowHash)
	anyone, last := &slowly{says: func(Login) error { return nil }}, &slowly{says: func(Login) error { return nil }}
	synctest.Test(t, func(t *testing.T) {
		a := newAccounts([]string{"ann"}, nil)
		a.add("static", slowStatic(t, h, "ann", "al"))
		a.add("anyone", anyone)
		a.add("last", last)
		for range 2 {
			for _, name := range []string{"ann", "al"} {
				who, err := a.authenticate(t.Context(), Login{Name: name, Password: "x"})
				if !errors.Is(err, ErrWrongPassword) || who.Name != "" || who.directory != "static" || told(err) != "wrong" {
					t.Errorf("%+v, %v", who, err)
				}
			}
		}
		// Right logins take no hash of somebody else's, nor is their secret shown further.
		h.n.Store(0)
		if who, err := a.authenticate(t.Context(), Login{Name: "zoe", Password: "x"}); err != nil || who.Name != "zoe" || h.n.Load() != 0 {
			t.Errorf("%+v, %v after %d hashes", who, err, h.n.Load())
		}
	})
	heard := anyone.heard
	if len(heard) != 5 || heard[0] != heard[2] || heard[1] != heard[3] || heard[0] == heard[1] {
		t.Errorf("the directory has heard of %q", heard)
	}
	if !validLDAPName(heard[0]) || !userShape.MatchString(heard[0]) {
		t.Errorf("%q is not like a name", heard[0])
	}
	if len(last.heard) > 0 {
		t.Errorf("the one behind it has heard of %q", last.heard)
	}
}

// TestUntoldRefusals: while a directory is away, or too many passwords are being
// checked, a wrong login of the configuration's is answered as any other. It
// counts as the guess that it is, and the log tells of it.
func TestUntoldRefusals(t *testing.T) {
	s := newSite(t)
	s.globals = trustFront
	s.load(users("alice"), "directory elsewhere", private("acme", "alice"))
	seen := 0
	elsewhereFails.Store(1)
	defer elsewhereFails.Store(0)
	s.audited(&seen)
	alike := func() {
		t.Helper()
		for _, how := range []func(name string) answer{
			func(name string) answer { return s.get(auth, basic(name, "x")) },
			func(name string) answer { return s.get("/v2/", basic(name, "x")) },
			func(name string) answer { return s.get("/jwt/auth", form(loginForm(name, "x"))) },
		} {
			var answers []string
			for _, name := range []string{"alice", "nobody"} {
				elsewhereAsked.Store(0)
				a := how(name).expect(t, http.StatusServiceUnavailable, "UNAVAILABLE").has(t, "Retry-After", "10").has(t, "WWW-Authenticate", "")
				a.Header.Del("Date")
				answers = append(answers, fmt.Sprintf("%d %v %s, and the second directory was asked %d times", a.StatusCode, a.Header, a.body, elsewhereAsked.Load()))
			}
			if answers[0] != answers[1] {
				t.Errorf("%s for an account, %s for none", answers[0], answers[1])
			}
		}
	}
	alike()
	if got := s.audited(&seen); !slices.Equal(got, slices.Repeat([]string{"warn|login refused|alice|static||wrong password"}, 3)) {
		t.Errorf("the audit log tells %q", got)
	}
	for i := range 2 * (accountBurst + 5) {
		name, i := []string{"alice", "nobody"}[i%2], i/2
		want := http.StatusServiceUnavailable
		if i >= accountBurst-2 { // one was above, and again at a tenth of the price
			want = http.StatusTooManyRequests
		}
		if a := s.get(auth, basic(name, fmt.Sprint("guess", i)), from(fmt.Sprint("198.51.100.", i))); a.StatusCode != want {
			t.Errorf("%s, guess %d: %d instead of %d", name, i, a.StatusCode, want)
		}
	}
	s.restart(users("alice"), "directory elsewhere", private("acme", "alice")) // forgets the guesses
	elsewhereFails.Store(0)
	hashing.strangers.Add(maxWaiting)
	defer hashing.strangers.Add(-maxWaiting)
	alike()
}

// TestGuessesWhileAway: an outage gives nobody more guesses, neither where the
// account has been logged in to nor from one address at many accounts.
func TestGuessesWhileAway(t *testing.T) {
	s := newSite(t)
	s.globals = trustFront
	s.load(users("alice"), "directory elsewhere", private("acme", "alice"))
	home, strange := from("198.51.100.1"), from("198.51.100.2")
	s.get(auth, as("alice"), home).expect(t, http.StatusOK, "")
	elsewhereFails.Store(1)
	defer elsewhereFails.Store(0)
	for i := range addressBurst {
		s.get(auth, basic("alice", fmt.Sprint("guess", i)), home).expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
		s.get(auth, basic(fmt.Sprint("user", i), "guess"), strange).expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	}
	s.get(auth, basic("alice", "another"), home).expect(t, http.StatusTooManyRequests, "TOOMANYREQUESTS")
	s.get(auth, basic("mallory", "guess"), strange).expect(t, http.StatusTooManyRequests, "TOOMANYREQUESTS")
	s.get(auth, as("alice"), home).expect(t, http.StatusOK, "") // the owner gets in
}

// TestRefusedAndGone: who leaves before the other directories have answered has
// guessed all the same.
func TestRefusedAndGone(t *testing.T) {
	s := newSite(t)
	s.globals = trustFront
	s.load(users("alice"), "directory elsewhere", private("acme", "alice"))
	elsewhereFails.Store(2)
	defer elsewhereFails.Store(0)
	for i := range accountBurst {
		elsewhereAsked.Store(0)
		ctx, leave := context.WithCancel(t.Context())
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+auth, nil)
		if err != nil {
			t.Fatal(err)
		}
		basic("alice", fmt.Sprint("guess", i))(r)
		from(fmt.Sprint("198.51.100.", i))(r)
		done := make(chan struct{})
		go func() {
			defer close(done)
			if response, err := client.Do(r); err == nil {
				_ = response.Body.Close()
				t.Errorf("an answer: %s", response.Status)
			}
		}()
		eventually(t, "the directory is asked", func() bool { return elsewhereAsked.Load() == 1 })
		leave()
		<-done
		eventually(t, "the handler has ended", func() bool { return strings.Count(s.logs(), `"status":499`) == i+1 })
	}
	elsewhereFails.Store(0)
	s.get(auth, basic("alice", "guess"), from("203.0.113.1")).expect(t, http.StatusTooManyRequests, "TOOMANYREQUESTS")
	if n := strings.Count(s.logs(), `"reason":"wrong password"`); n != accountBurst {
		t.Errorf("%d guesses are in the audit log", n)
	}
}

// TestLDAPBehind: a wrong password for a name of the configuration's costs at the
// LDAP server what an unknown name does, and no account of that name is tried there.
func TestLDAPBehind(t *testing.T) {
	for name, block := range map[string]func(*ldapServer) string{
		"search": func(l *ldapServer) string { return l.directory() },
		"no service account": func(l *ldapServer) string {
			return "directory ldap " + l.url() + " {\n tls_trust_pool file " + l.ca + "\n user_dn uid=%s," + ldapPeople + "\n}\n"
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLDAP(t, true)
			s := ldapSite(t, users("alice"), block(l)) // there is an alice at the server too
			s.get("/v2/", as("bob")).expect(t, http.StatusOK, "")
			ask := func(name, password string) (dns, filters []string) {
				l.heard()
				s.get("/v2/", loginAs(name, password)).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
				return l.heard()
			}
			for i := range 3 {
				wrong := fmt.Sprint("wrong", i)
				dns, filters := ask("alice", wrong)
				dnsUnknown, filtersUnknown := ask("stranger", wrong)
				if len(dns) != len(dnsUnknown) || len(filters) != len(filtersUnknown) || len(dns)+len(filters) == 0 {
					t.Errorf("for an account: %q, %q; for none: %q, %q", dns, filters, dnsUnknown, filtersUnknown)
				}
				if asked := fmt.Sprint(dns, filters); strings.Contains(asked, "alice") || !strings.Contains(asked, "nobody-") {
					t.Errorf("the server was asked %s", asked)
				}
			}
		})
	}
}
