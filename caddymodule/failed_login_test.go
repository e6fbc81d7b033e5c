package caddymodule

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/password"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
)

// TestFailedLoginDeadline checks that a failed login is answered after one
// second with what is known then, and a right one at once. The result of a
// later check counts, is logged, and makes the next attempt succeed at once.
func TestFailedLoginDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &slowHash{right: "right"}
		d := newLoginTest(t, staticWithSlowHash(t, h, "ann", "ben", "cleo", "blocked"))
		d.expect("a wrong password", d.login("ann", "wrong", "192.0.2.1"), 401, time.Second)
		d.expect("again", d.login("ann", "wrong", "192.0.2.1"), 401, time.Second)
		d.expect("an unknown name", d.login("nobody", "wrong", "192.0.2.1"), 401, time.Second)
		d.expect("a blocked account", d.login("blocked", "right", "192.0.2.1"), 401, time.Second)
		d.expect("no name", d.login("", "", "192.0.2.1"), 401, time.Second)
		d.expect("a right password", d.login("ann", "right", "192.0.2.1"), 200, 0)
		h.takes = 700 * time.Millisecond
		d.expect("a slow wrong one", d.login("ben", "wrong", "192.0.2.1"), 401, time.Second)
		d.expect("a slow unknown name", d.login("nobody", "wrong too", "192.0.2.1"), 401, time.Second)

		h.takes = 1100 * time.Millisecond
		for i := range sitetest.DocumentedAccountBurst - 1 { // one guess at ben was above
			d.expect("what takes too long", d.login("ben", fmt.Sprint("guess", i), fmt.Sprint("198.51.100.", i)), 503, time.Second)
			time.Sleep(200 * time.Millisecond)
		}
		if n := d.audited.FilterField(zap.String("reason", "wrong password")).FilterField(zap.String("account", "ben")).Len(); n != sitetest.DocumentedAccountBurst {
			t.Errorf("got %d guesses in the audit log, want %d", n, sitetest.DocumentedAccountBurst)
		}
		d.expect("a guess too many", d.login("ben", "another", "203.0.113.1"), 429, 0)

		d.expect("a right one that takes too long", d.login("cleo", "right", "192.0.2.1"), 503, time.Second)
		time.Sleep(200 * time.Millisecond)
		d.expect("the next try", d.login("cleo", "right", "192.0.2.1"), 200, 0)
		d.expect("from elsewhere", d.login("cleo", "right", "203.0.113.2"), 200, 0)
	})
}

// TestFailedLoginsAnsweredAlike checks that all names get the same answers at
// the same times, whichever directory knows them, while the queue for hashes
// and the server of a directory are saturated.
func TestFailedLoginsAnsweredAlike(t *testing.T) {
	for name, row := range map[string]struct{ hash, server time.Duration }{
		"idle":             {time.Millisecond, time.Millisecond},
		"busy with hashes": {300 * time.Millisecond, 10 * time.Millisecond},
		"a busy server":    {10 * time.Millisecond, 300 * time.Millisecond},
		"both":             {150 * time.Millisecond, 150 * time.Millisecond},
		"both hopelessly":  {2 * time.Second, 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			var want []loginAnswer
			for _, name := range []string{"nobody", "static", "remote", "other"} {
				synctest.Test(t, func(t *testing.T) {
					h := &slowHash{takes: row.hash}
					d := newLoginTest(t, staticWithSlowHash(t, h, "static"), newRemoteDirectory(row.server, knowsOnly("remote")), staticWithSlowHash(t, h, "other"))
					var got []loginAnswer
					answers := make(chan loginAnswer)
					for i := range sitetest.DocumentedAccountBurst {
						go func() { answers <- d.login(name, fmt.Sprint("guess", i), fmt.Sprint("198.51.100.", i)) }()
					}
					for range sitetest.DocumentedAccountBurst {
						got = append(got, <-answers)
					}
					time.Sleep(time.Minute)
					slices.SortFunc(got, func(a, b loginAnswer) int { return a.status - b.status })
					if want == nil {
						want = got
					}
					if !slices.Equal(got, want) {
						t.Errorf("%s: got %v, want %v as for an unknown name", name, got, want)
					}
					if n := h.n.Load(); n != sitetest.DocumentedAccountBurst && row.hash < time.Second { // otherwise the logins give up waiting
						t.Errorf("%s: got %d hashes, want one for each of %d logins", name, n, sitetest.DocumentedAccountBurst)
					}
				})
			}
		})
	}
}

// TestFailedLoginCost checks that each failed login costs one hash and one
// question to each directory. None but the first that knows the name gets the
// name or the password, and none of the others accepts the login.
func TestFailedLoginCost(t *testing.T) {
	away := errors.New("away")
	always := func(err error) func(directory.Login) error { return func(directory.Login) error { return err } }
	for name, row := range map[string]struct {
		first, second func(directory.Login) error
		status        int
	}{
		"all answer":       {knowsOnly("first"), knowsOnly("second"), 401},
		"one is away":      {knowsOnly("first"), always(away), 503},
		"one is busy":      {knowsOnly("first"), always(password.ErrBusy), 503},
		"one lets them in": {knowsOnly("first"), always(nil), 401},
	} {
		t.Run(name, func(t *testing.T) {
			for _, name := range []string{"ann", "first", "nobody"} {
				synctest.Test(t, func(t *testing.T) {
					h := new(slowHash)
					first, second := newRemoteDirectory(0, row.first), newRemoteDirectory(0, row.second)
					d := newLoginTest(t, staticWithSlowHash(t, h, "ann"), first, second)
					if name == "nobody" && row.status == 401 {
						second.says = knowsOnly("second")
					}
					got := d.login(name, "wrong", "192.0.2.1")
					d.expect(name, got, row.status, time.Second)
					if len(first.heard) != 1 || len(second.heard) != 1 {
						t.Errorf("%s: the directories heard %q and %q, want one name each", name, first.heard, second.heard)
					}
					if name != "nobody" && slices.Contains(second.heard, name) {
						t.Errorf("%s: got the name at the second directory, want an invented one", name)
					}
					if n := h.n.Load(); n > 1 || row.status == 401 && n != 1 {
						t.Errorf("%s: got %d hashes, want 1", name, n)
					}
				})
			}
		})
	}
}

// TestLoginChecksAreBounded checks that the number of running checks is
// bounded, and that some places are reserved for addresses with an earlier
// right login.
func TestLoginChecksAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hang := newRemoteDirectory(time.Hour, func(directory.Login) error { return nil })
		d := newLoginTest(t, hang)
		const places = 50 // few enough timers for the race detector
		d.limit(places)
		quick := newLoginTest(t, newRemoteDirectory(0, func(directory.Login) error { return nil }))
		quick.gate = &access.Gate{Accounts: quick.accounts, Throttle: d.gate.Throttle}
		quick.expect("a login", quick.login("ann", "right", "192.0.2.1"), 200, 0)
		for i := range 2 * places {
			go d.login(fmt.Sprint("user", i), "x", fmt.Sprintf("10.0.%d.%d", i>>8, i&255))
		}
		synctest.Wait()
		if n := d.gate.Throttle.Checking(); n != places {
			t.Errorf("got %d checks under way, want %d", n, places)
		}
		quick.expect("a stranger", quick.login("zoe", "right", "203.0.113.1"), 503, time.Second)
		quick.expect("a colleague", quick.login("zoe", "right", "192.0.2.1"), 200, 0)
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if n := d.gate.Throttle.Checking(); n > 1 { // the check that occupies the server
			t.Errorf("got %d checks under way after their time, want none", n)
		}
		time.Sleep(2 * time.Hour)
	})
}

// TestDirectoryPanics checks that a directory that panics fails only the login.
func TestDirectoryPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newLoginTest(t, newRemoteDirectory(0, func(directory.Login) error { panic("a bug") }))
		d.expect("a login", d.login("ann", "x", "192.0.2.1"), 503, time.Second)
	})
}
