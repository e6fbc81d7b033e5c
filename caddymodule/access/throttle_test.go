package access

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/gitlab"
)

// guard is a throttle with a clock of its own.
type guard struct {
	*Throttle
	t     *testing.T
	clock time.Time
}

func newGuard(t *testing.T) *guard {
	g := &guard{NewThrottle(Times{}, 0), t, time.Unix(1e9, 0)}
	g.now = func() time.Time { return g.clock }
	return g
}

// try has a login checked that is right if its password is.
func (g *guard) try(address, name, password string) (admitted bool) {
	a, refusal := g.admit(address, name, password, !new(Accounts).isToken(name, password))
	if refusal != nil {
		if refusal.Wait <= 0 || refusal.Reason == "" {
			g.t.Errorf("refused with %+v", refusal)
		}
		return false
	}
	defer a.release()
	if strings.HasPrefix(password, "right") {
		a.accepted()
	} else {
		a.refused()
	}
	return true
}

// guess tries that many different wrong passwords and counts those that are
// checked.
func (g *guard) guess(n int, address, name string) (checked int) {
	for i := range n {
		if g.try(address, name, fmt.Sprint("wrong ", address, i, g.clock)) {
			checked++
		}
	}
	return checked
}

func (g *guard) expect(what string, got, want any) {
	g.t.Helper()
	if got != want {
		g.t.Errorf("%s: %v instead of %v", what, got, want)
	}
}

// TestThrottleAddress: whoever guesses is refused soon, whatever the account,
// and others at the address that have logged in are not.
func TestThrottleAddress(t *testing.T) {
	g := newGuard(t)
	g.expect("at work", g.try("192.0.2.1", "alice", "right"), true)
	checked := 0
	for i := range 100 {
		checked += g.guess(1, "192.0.2.1", fmt.Sprint("user", i))
	}
	g.expect("guesses", checked, addressBurst)
	g.expect("a right login that is not known", g.try("192.0.2.1", "bob", "right too"), false)
	g.expect("a known login", g.try("192.0.2.1", "alice", "right"), true)
	g.expect("a known login from elsewhere", g.try("192.0.2.9", "alice", "right"), true)
	g.expect("another address", g.try("192.0.2.2", "bob", "right too"), true)
	g.expect("the other one's login", g.try("192.0.2.1", "bob", "right too"), true)

	g.clock = g.clock.Add(addressEvery)
	g.expect("guesses after a while", g.guess(5, "192.0.2.1", "carol"), 1)
	g.clock = g.clock.Add(24 * time.Hour)
	g.expect("guesses after a day", g.guess(100, "192.0.2.1", "dave"), accountBurst) // which is less
	g.expect("guesses at others", g.guess(100, "192.0.2.1", "erin"), addressBurst-accountBurst)
}

// TestThrottleAccount: an account that strangers guess at is open to those who
// have logged in before, and it does not matter whether it exists.
func TestThrottleAccount(t *testing.T) {
	g := newGuard(t)
	g.expect("at home", g.try("192.0.2.1", "alice", "right"), true)
	for _, name := range []string{"alice", "nobody"} {
		checked := 0
		for i := range 200 {
			checked += g.guess(1, fmt.Sprint("198.51.100.", i), name)
		}
		g.expect("guesses at "+name, checked, accountBurst)
	}
	g.expect("a stranger who knows it", g.try("203.0.113.1", "alice", "right password of now"), false)
	g.expect("a stranger at another account", g.try("203.0.113.1", "bob", "right too"), true)
	g.expect("home with a new password", g.try("192.0.2.1", "alice", "right password of now"), true)
	g.expect("what is known now from anywhere", g.try("203.0.113.1", "alice", "right password of now"), true)
	g.expect("guesses from home", g.guess(100, "192.0.2.1", "alice"), addressBurst)
	g.clock = g.clock.Add(time.Duration(addressBurst+1) * accountEvery) // home's guesses are owed as well
	g.expect("guesses later", g.guess(10, "203.0.113.2", "alice"), 1)
}

// TestThrottleTokens: CI jobs log in from anywhere with one name and a secret
// each, of which some have expired.
func TestThrottleTokens(t *testing.T) {
	g := newGuard(t)
	secret := func(i int) string { return fmt.Sprintf("glcbt-64_%020dXy", i) }
	for i := range 200 {
		g.expect("an old secret", g.try(fmt.Sprint("198.51.100.", i), "gitlab-ci-token", secret(i)), true)
	}
	g.expect("a password of that name", g.try("203.0.113.1", "gitlab-ci-token", "right"), true)
	for i := range 100 {
		g.expect("from one address", g.try("203.0.113.2", "gitlab-ci-token", secret(i+1000)), i < addressBurst)
	}
}

// TestThrottleSpellings: all ways to write a name that a directory may take for one
// account share what guesses at it cost.
func TestThrottleSpellings(t *testing.T) {
	g := newGuard(t)
	spellings := []string{
		"straße  bob", "STRASSE BOB", " Straße Bob\t", "ｓｔｒａｓｓｅ bob", "straße\u00a0bob", "straße\u2003bob", "stras\u00adse bob", "straſse bob", "strásse bob", "straße bob\ufe00", "str\u1806aße bob", "straße\ufffc bob",
	}
	checked := 0
	for i := range 40 {
		for j, name := range spellings {
			checked += g.guess(1, fmt.Sprintf("198.51.%d.%d", i, j), name)
		}
	}
	g.expect("guesses", checked, accountBurst)
	g.expect("guesses at another", g.guess(1, "203.0.113.1", "strasse bo"), 1)
	long := strings.Repeat("x", maxFolded+1)
	g.expect("a name too long to be folded", looseName(long+" "), long+" ")
}

// TestThrottlePassphrases: what people may have chosen counts against the account,
// however long it is.
func TestThrottlePassphrases(t *testing.T) {
	for _, password := range []string{
		"Correct-Horse-Battery-%03d", "0123456789abcdef0123456789abcdef%03d", "https://example.com/Secret%03d", "a.b%03d.cccccccccccccccccccccc",
	} {
		g := newGuard(t)
		checked := 0
		for i := range 300 {
			if g.try(fmt.Sprint("2001:db8:0:", i, "::1"), "alice", fmt.Sprintf(password, i)) {
				checked++
			}
		}
		g.expect("guesses like "+password, checked, accountBurst)
	}
	header := "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJ4In0."
	for _, token := range []string{
		"glpat-0123456789abcdefghij", "gldt-0123456789abcdefghij", "glcbt-64_0123456789abcdefghij", "dpxy_0123456789abcdefghijABCDEFGHIJ", "ghp_0123456789abcdefghij", header + "c2lnbmF0dXJl",
	} {
		if !new(Accounts).isToken("alice", token) {
			t.Errorf("%s counts against the account, want the address alone", token)
		}
	}
	own := NewAccounts(Config{})
	own.Add("gitlab", &gitlab.Directory{TokenPrefix: "acme-"})
	for _, row := range []struct {
		name, password string
		want           bool
	}{
		{"alice", "acme-0123456789abcdefghij", true}, {"gitlab-ci-token", "0123456789abcdefghij0123", true},
		{"alice", "0123456789abcdefghij0123", false}, {"gitlab-ci-token", "hunter2", false}, {"alice", "eyJ.two.dots and more than twenty", false},
	} {
		if got := own.isToken(row.name, row.password); got != row.want {
			t.Errorf("%s with %s: got %t, want %t", row.name, row.password, got, row.want)
		}
	}
}

// TestThrottleForgedTokens: forged tokens count against their address, whether or not
// they could be recognized as forged.
func TestThrottleForgedTokens(t *testing.T) {
	g := newGuard(t)
	checked := 0
	for i := range 200 {
		a, refusal := g.admit("192.0.2.1", "ci", fmt.Sprintf("dpxy_%039d", i), false)
		if refusal != nil {
			continue
		}
		a.undecided()
		a.release()
		checked++
	}
	g.expect("forged tokens", checked, addressBurst)
	g.expect("a password of that name", g.try("192.0.2.2", "ci", "right"), true)
}

// TestThrottleRepeats: an old secret somewhere in a job is no attack, until it
// is repeated without end.
func TestThrottleRepeats(t *testing.T) {
	g := newGuard(t)
	checked := 0
	for range 1000 {
		if g.try("192.0.2.1", "alice", "old") {
			checked++
		}
	}
	g.expect("repeats", checked, (accountBurst-2)*repeats+2)
	for range 1000 { // one each second
		g.clock = g.clock.Add(time.Second)
		g.try("192.0.2.2", "ci", "old")
	}
	g.expect("a colleague", g.try("192.0.2.2", "bob", "right"), true)
}

// TestThrottleForgets: what was right is no pass for what is wrong now.
func TestThrottleForgets(t *testing.T) {
	g := newGuard(t)
	login := func() (a *attempt) {
		a, refusal := g.admit("192.0.2.1", "alice", "secret", true)
		if refusal != nil {
			t.Fatal(refusal)
		}
		defer a.release()
		return a
	}
	login().accepted()
	if a := login(); !a.repeated || !a.known {
		t.Error("the login is not remembered")
	}
	g.expect("guesses", g.guess(100, "192.0.2.1", "bob"), accountBurst)
	login().refused() // the password has been changed
	if a := login(); a.repeated || !a.known {
		t.Error("the wrong login is remembered as right, or the address is forgotten")
	}
	g.expect("guesses", g.guess(100, "192.0.2.1", "carol"), addressBurst-accountBurst-1)
	if _, refusal := g.admit("192.0.2.1", "alice", "secret", true); refusal == nil {
		t.Error("the old password still passes")
	}
}

// TestThrottleFlights: guesses do not escape by being many at once, and equal
// logins are one.
func TestThrottleFlights(t *testing.T) {
	g := newGuard(t)
	var flying []*attempt
	start := func(address, name, password string) bool {
		a, refusal := g.admit(address, name, password, !new(Accounts).isToken(name, password))
		if refusal != nil {
			return false
		}
		flying = append(flying, a)
		return true
	}
	started := 0
	for i := range 500 {
		for range 3 {
			if start("192.0.2.1", fmt.Sprint("user", i), "x") {
				started++
			}
		}
	}
	g.expect("from one address", started, 3*addressFlights)
	started = 0
	for i := range 500 {
		if start(fmt.Sprint("198.51.100.", i), "alice", fmt.Sprint(i)) {
			started++
		}
	}
	g.expect("to one account", started, accountBurst)
	for _, a := range flying {
		a.refused()
		a.release()
	}
	// What went beyond the bucket is owed.
	g.clock = g.clock.Add(addressEvery * (addressFlights - addressBurst))
	g.expect("guesses at once", g.guess(1, "192.0.2.1", "zoe"), 0)
	g.clock = g.clock.Add(addressEvery * addressFlights)
	g.expect("guesses later", g.guess(1, "192.0.2.1", "zoe"), 1)
}

// TestThrottleBounded: strangers do not fill the memory.
func TestThrottleBounded(t *testing.T) {
	g := newGuard(t)
	for i := range 2 * remembered {
		g.try(fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255), fmt.Sprint("user", i), "wrong")
	}
	for _, n := range []int{g.addresses.Len(), g.accounts.Len(), g.wrong.Len(), g.right.Len(), g.homes.Len()} {
		if n > remembered {
			t.Errorf("%d are remembered", n)
		}
	}
}

func TestSubnet(t *testing.T) {
	for address, subnet := range map[string]string{
		"192.0.2.1": "192.0.2.1", "::ffff:192.0.2.1": "192.0.2.1",
		"2001:db8:1:2:3:4:5:6": "2001:db8:1:2::/64", "2001:db8:1:2::1%eth0": "2001:db8:1:2::/64",
		"::1": "::/64", "": "", "@": "@",
	} {
		if got := subnetOf(address); got != subnet {
			t.Errorf("%s: %s instead of %s", address, got, subnet)
		}
	}
}
