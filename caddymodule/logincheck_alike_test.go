package caddymodule

import (
	"fmt"
	"maps"
	"testing"
	"testing/synctest"
	"time"
)

// spray tries one password with names at once, each from an address of its own, and
// counts the answers.
func (d *desk) spray(names []string, password string) map[int]int {
	answers := make(chan answered)
	for i, name := range names {
		go func() { answers <- d.login(name, password, fmt.Sprint("198.51.100.", i)) }()
	}
	status := map[int]int{}
	for range names {
		status[(<-answers).status]++
	}
	time.Sleep(time.Minute)
	return status
}

// TestFailedLoginsSprayed: one password tried with many names takes a hash for
// each, whether or not there are such accounts.
func TestFailedLoginsSprayed(t *testing.T) {
	var known, unknown []string
	for i := range accountBurst {
		known, unknown = append(known, fmt.Sprint("user", i)), append(unknown, fmt.Sprint("nobody", i))
	}
	var want map[int]int
	for _, names := range [][]string{known, unknown} {
		synctest.Test(t, func(t *testing.T) {
			h := &slowHash{takes: 150 * time.Millisecond}
			status := newDesk(t, slowStatic(t, h, known...)).spray(names, "wrong")
			if want == nil {
				want = status
			}
			if !maps.Equal(status, want) || h.n.Load() != accountBurst {
				t.Errorf("%s and others: got %v after %d hashes, want %v after %d", names[0], status, h.n.Load(), want, accountBurst)
			}
		})
	}
}

// TestFailedLoginsOwnPassword: who has an account gets with its password the same
// answer for names that others have and that nobody has, while hashes take long.
func TestFailedLoginsOwnPassword(t *testing.T) {
	for _, name := range []string{"ann", "nobody", "noone"} {
		synctest.Test(t, func(t *testing.T) {
			h := &slowHash{right: "eve's"}
			d := newDesk(t, slowStatic(t, h, "eve")) // whom all unknown names are compared with
			if name == "ann" {
				d = newDesk(t, slowStatic(t, h, "ann"))
			} else {
				d.expect("eve", d.login("eve", "eve's", "192.0.2.1"), 200, 0)
			}
			h.takes, h.right = 2*time.Second, "x"
			d.expect(name, d.login(name, "eve's", "198.51.100.1"), 503, time.Second)
			time.Sleep(time.Minute)
		})
	}
}

// TestHashPanics: a hash module that panics fails the login and nothing else.
func TestHashPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, slowStatic(t, nil, "ann"))
		d.expect("a login", d.login("ann", "x", "192.0.2.1"), 503, time.Second)
		d.expect("an unknown name", d.login("nobody", "x", "192.0.2.1"), 503, time.Second)
		if n := len(hashing.slots); n != 0 {
			t.Errorf("%d turns are still taken", n)
		}
	})
}
