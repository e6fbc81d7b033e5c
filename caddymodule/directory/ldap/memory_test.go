package ldap

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
)

// TestAnswers: who waits for an answer, how long it is believed, and what a
// failure changes.
func TestAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory, err := newMemory()
		if err != nil {
			t.Fatal(err)
		}
		away := errors.New("away")
		var asked atomic.Int32
		var result error
		p := patience{fresh: 30 * time.Second, grace: 10 * time.Minute, limit: 20 * time.Second}
		ask := func(context.Context) (directory.Account, error) {
			asked.Add(1)
			time.Sleep(5 * time.Second)
			return directory.Account{Name: "alice"}, result
		}
		step := func(wait time.Duration, wantErr error, took time.Duration, asks int32) {
			t.Helper()
			time.Sleep(wait)
			begin, before := time.Now(), asked.Load()
			var all sync.WaitGroup
			for range 5 {
				all.Go(func() {
					if _, err := memory.accounts.get(t.Context(), "alice", p, ask); !errors.Is(err, wantErr) {
						t.Errorf("%v instead of %v", err, wantErr)
					}
				})
			}
			all.Wait()
			if d := time.Since(begin); d != took {
				t.Errorf("it has taken %v instead of %v", d, took)
			}
			synctest.Wait()
			if n := asked.Load() - before; n != asks {
				t.Errorf("asked %d times instead of %d", n, asks)
			}
		}
		const wait = 5 * time.Second
		step(0, nil, wait, 1)
		step(29*time.Second, nil, 0, 0)
		step(2*time.Second, nil, wait, 1)
		result = away
		step(31*time.Second, nil, wait, 1)                         // the first one waits
		step(0, nil, 0, 0)                                         // and no one after it
		step(2*time.Second, nil, 0, 1)                             // though it is asked
		step(20*time.Second, nil, wait, 1)                         // whoever comes late waits again
		step(10*time.Minute, away, wait, 1)                        // the grace is over
		result = nil                                               // back
		step(0, nil, wait, 1)                                      // at once
		result = directory.ErrUnknownAccount                       // gone
		step(31*time.Second, directory.ErrUnknownAccount, wait, 1) // for good
		step(10*time.Second, directory.ErrUnknownAccount, 0, 0)
		result = away
		step(31*time.Second, directory.ErrUnknownAccount, wait, 1) // known too
		if _, err := memory.logins.get(t.Context(), "x", p, func(context.Context) (directory.Account, error) {
			return directory.Account{}, directory.ErrWrongPassword
		}); !errors.Is(err, directory.ErrWrongPassword) || memory.logins.cache.Len() > 0 {
			t.Errorf("a wrong password is remembered: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := memory.accounts.get(ctx, "other", p, ask); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("whoever leaves gets %v", err)
		}
		time.Sleep(time.Minute) // what flies lands
	})
}

// TestLDAPPause: a name that there is nothing to bind as takes the time of a bind
// as binds go now, and no longer than its client waits.
func TestLDAPPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory, err := newMemory()
		if err != nil {
			t.Fatal(err)
		}
		pauses := func(ctx context.Context) time.Duration {
			begin := time.Now()
			memory.pause(ctx)
			return time.Since(begin)
		}
		memory.bindTook(80 * time.Millisecond)
		if took := pauses(t.Context()); took != 80*time.Millisecond {
			t.Errorf("after one bind it pauses for %v", took)
		}
		memory.bindTook(160 * time.Millisecond)
		if took := pauses(t.Context()); took != 90*time.Millisecond {
			t.Errorf("after a slow one it pauses for %v", took)
		}
		for range 100 {
			memory.bindTook(20 * time.Millisecond)
		}
		if took := pauses(t.Context()); took < 20*time.Millisecond || took > 21*time.Millisecond {
			t.Errorf("after many quick ones it pauses for %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if took := pauses(ctx); took != time.Millisecond {
			t.Errorf("its client has left, and it pauses for %v", took)
		}
	})
}
