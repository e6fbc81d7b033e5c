package access

import (
	"fmt"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// TestThrottleAccountBucket checks that an account with an empty bucket is only
// open to addresses that have logged in to it, and that accounts which do not
// exist are treated alike.
func TestThrottleAccountBucket(t *testing.T) {
	tt := newThrottleTest(t)
	tt.expect("a first right login", tt.login("192.0.2.1", "alice", "right"), true)
	for _, name := range []string{"alice", "nobody"} {
		admitted := 0
		for i := range 200 {
			admitted += tt.guess(1, fmt.Sprint("198.51.100.", i), name)
		}
		tt.expect("guesses at "+name, admitted, accountBurst)
	}
	tt.expect("a right login from an unknown address", tt.login("203.0.113.1", "alice", "right password of now"), false)
	tt.expect("the same address at another account", tt.login("203.0.113.1", "bob", "right too"), true)
	tt.expect("a new password from a known address", tt.login("192.0.2.1", "alice", "right password of now"), true)
	tt.expect("the same, now remembered, from an unknown address", tt.login("203.0.113.1", "alice", "right password of now"), true)
	tt.expect("guesses from a known address", tt.guess(100, "192.0.2.1", "alice"), addressBurst)
	tt.clock = tt.clock.Add(time.Duration(addressBurst+1) * accountEvery) // those guesses are charged to the account as well
	tt.expect("guesses later", tt.guess(10, "203.0.113.2", "alice"), 1)
}

// TestThrottleTokens checks that wrong tokens are only charged to the address. CI
// jobs send them from many addresses with the same name.
func TestThrottleTokens(t *testing.T) {
	tt := newThrottleTest(t)
	secret := func(i int) string { return fmt.Sprintf("glcbt-64_%020dXy", i) }
	for i := range 200 {
		tt.expect("an old token", tt.login(fmt.Sprint("198.51.100.", i), "gitlab-ci-token", secret(i)), true)
	}
	tt.expect("a password with that name", tt.login("203.0.113.1", "gitlab-ci-token", "right"), true)
	for i := range 100 {
		tt.expect("old tokens from one address", tt.login("203.0.113.2", "gitlab-ci-token", secret(i+1000)), i < addressBurst)
	}
}

// TestThrottleForgedTokens checks that forged tokens are charged to the address
// even if they could not be checked.
func TestThrottleForgedTokens(t *testing.T) {
	tt := newThrottleTest(t)
	admitted := 0
	for i := range 200 {
		a, limited := tt.admit("192.0.2.1", "ci", fmt.Sprintf("dpxy_%039d", i), false)
		if limited != nil {
			continue
		}
		a.undecided()
		a.release()
		admitted++
	}
	tt.expect("forged tokens", admitted, addressBurst)
	tt.expect("a password with that name", tt.login("192.0.2.2", "ci", "right"), true)
}

// TestThrottleSpellings checks that all spellings of a name which a directory may
// take for one account share a bucket.
func TestThrottleSpellings(t *testing.T) {
	tt := newThrottleTest(t)
	spellings := []string{
		"straße  bob", "STRASSE BOB", " Straße Bob\t", "ｓｔｒａｓｓｅ bob", "straße\u00a0bob", "straße\u2003bob", "stras\u00adse bob", "straſse bob", "strásse bob", "straße bob\ufe00", "str\u1806aße bob", "straße\ufffc bob",
	}
	admitted := 0
	for i := range 40 {
		for j, name := range spellings {
			admitted += tt.guess(1, fmt.Sprintf("198.51.%d.%d", i, j), name)
		}
	}
	tt.expect("guesses", admitted, accountBurst)
	tt.expect("a guess at another account", tt.guess(1, "203.0.113.1", "strasse bo"), 1)
}

// TestThrottlePassphrases checks that a password which a person may have chosen is
// charged to the account, however long it is.
func TestThrottlePassphrases(t *testing.T) {
	for _, password := range []string{
		"Correct-Horse-Battery-%03d", "0123456789abcdef0123456789abcdef%03d", "https://example.com/Secret%03d", "a.b%03d.cccccccccccccccccccccc",
	} {
		tt := newThrottleTest(t)
		admitted := 0
		for i := range 300 {
			if tt.login(fmt.Sprint("2001:db8:0:", i, "::1"), "alice", fmt.Sprintf(password, i)) {
				admitted++
			}
		}
		tt.expect("guesses like "+password, admitted, accountBurst)
	}
}

// TestThrottleKnownAddressNeedsSameAccount checks that a login to an account of
// another directory, or with a token, does not make its address known to the
// account that failed logins are charged to.
func TestThrottleKnownAddressNeedsSameAccount(t *testing.T) {
	for what, row := range map[string]struct{ name, secret string }{
		"another spelling":            {"ROOT", "right"},
		"a GitLab token":              {"root", "glpat-right-token-of-another-root"},
		"an access token of the site": {"root", accesstoken.Prefix + "right-0123456789-0123456789"},
	} {
		tt := newThrottleTest(t)
		admitted := 0
		for i := range 10 {
			address := fmt.Sprint("198.51.100.", i)
			a, limited := tt.admit(address, row.name, row.secret, !new(Accounts).isToken(row.name, row.secret))
			if limited != nil {
				t.Fatalf("login with %s: got %v, want it admitted", what, limited)
			}
			a.accepted()
			a.release()
		}
		for i := range 10 {
			admitted += tt.guess(10, fmt.Sprint("198.51.100.", i), "root")
		}
		tt.expect("guesses at root after logins with "+what, admitted, accountBurst)
	}
}
