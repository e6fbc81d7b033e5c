package caddymodule

import (
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/password"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
)

// TestSprayedPasswordCost checks that one password tried with many names costs
// one hash for each, whether or not the accounts exist.
func TestSprayedPasswordCost(t *testing.T) {
	var known, unknown []string
	for i := range sitetest.DocumentedAccountBurst {
		known, unknown = append(known, fmt.Sprint("user", i)), append(unknown, fmt.Sprint("nobody", i))
	}
	var want map[int]int
	for _, names := range [][]string{known, unknown} {
		synctest.Test(t, func(t *testing.T) {
			h := &slowHash{takes: 150 * time.Millisecond}
			status := newLoginTest(t, staticWithSlowHash(t, h, known...)).loginEach(names, "wrong")
			if want == nil {
				want = status
			}
			if !maps.Equal(status, want) || h.n.Load() != sitetest.DocumentedAccountBurst {
				t.Errorf("%s and others: got %v after %d hashes, want %v after %d", names[0], status, h.n.Load(), want, sitetest.DocumentedAccountBurst)
			}
		})
	}
}

// TestOwnPasswordWithOtherName checks that a caller who sends the password of
// an own account with another name gets the same answer whether that name
// exists or not, while hashing is slow.
func TestOwnPasswordWithOtherName(t *testing.T) {
	for _, name := range []string{"ann", "nobody", "noone"} {
		synctest.Test(t, func(t *testing.T) {
			h := &slowHash{right: "eve's"}
			d := newLoginTest(t, staticWithSlowHash(t, h, "eve")) // all unknown names are compared with eve's hash
			if name == "ann" {
				d = newLoginTest(t, staticWithSlowHash(t, h, "ann"))
			} else {
				d.expect("eve", d.login("eve", "eve's", "192.0.2.1"), 200, 0)
			}
			h.takes, h.right = 2*time.Second, "x"
			d.expect(name, d.login(name, "eve's", "198.51.100.1"), 503, time.Second)
			time.Sleep(time.Minute)
		})
	}
}

// TestHashModulePanics checks that a hash module that panics fails only the
// login.
func TestHashModulePanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newLoginTest(t, staticWithSlowHash(t, nil, "ann"))
		d.expect("a login", d.login("ann", "x", "192.0.2.1"), 503, time.Second)
		d.expect("an unknown name", d.login("nobody", "x", "192.0.2.1"), 503, time.Second)
		leave, err := password.DefaultQueue.Enter(t.Context(), true)
		if err != nil {
			t.Fatalf("got error %v, want a place in the queue after the panic", err)
		}
		leave()
	})
}

// TestDirectoryErrorIsRedacted checks that the error of a directory is logged
// without the password of the login.
func TestDirectoryErrorIsRedacted(t *testing.T) {
	core, logged := observer.New(zapcore.DebugLevel)
	synctest.Test(t, func(t *testing.T) {
		d := newLoginTest(t, newRemoteDirectory(0, func(l directory.Login) error { return fmt.Errorf("cannot parse %q", l.Password) }))
		d.logger = zap.New(core)
		d.expect("a login", d.login("ann", "hunter22", "192.0.2.1"), 503, time.Second)
	})
	if text := fmt.Sprint(logged.All()); logged.Len() != 1 || strings.Contains(text, "hunter22") {
		t.Errorf("got the log lines %s, want one without the password", text)
	}
}

// TestConcurrentEqualLogins checks that more clients than there are places log
// in at once with one right password, and all succeed.
func TestConcurrentEqualLogins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newLoginTest(t, staticWithSlowHash(t, &slowHash{right: "right", takes: 250 * time.Millisecond}, "ann"))
		d.limit(10)
		answers := make(chan loginAnswer)
		const jobs = 400
		for range jobs {
			go func() { answers <- d.login("ann", "right", "192.0.2.1") }()
		}
		status := map[int]int{}
		for range jobs {
			status[(<-answers).status]++
		}
		if status[200] != jobs {
			t.Errorf("got answers %v, want %d times 200", status, jobs)
		}
		synctest.Wait()
		if n := d.gate.Throttle.Checking(); n != 0 {
			t.Errorf("got %d places still taken, want none", n)
		}
	})
}
