package ldap

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/memo"
)

// TestMemoryRefusals: an unknown account is remembered and a wrong password is not,
// while a server that fails leaves both open.
func TestMemoryRefusals(t *testing.T) {
	d := &Directory{CacheFor: caddy.Duration(time.Hour), Grace: caddy.Duration(time.Hour), Timeout: caddy.Duration(time.Second)}
	memory, err := d.newMemory()
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	ask := func(cache *memo.Cache[directory.Account], answer error, wantAsked int) {
		t.Helper()
		asked = 0
		for range 3 {
			_, err := cache.Get(t.Context(), "alice", func(context.Context) (directory.Account, error) {
				asked++
				return directory.Account{}, answer
			})
			if !errors.Is(err, answer) {
				t.Errorf("got %v, want %v", err, answer)
			}
		}
		if asked != wantAsked {
			t.Errorf("%v: asked %d times, want %d", answer, asked, wantAsked)
		}
	}
	ask(memory.logins, directory.ErrWrongPassword, 3)
	ask(memory.accounts, errors.New("no server can be reached"), 3)
	ask(memory.accounts, directory.ErrUnknownAccount, 1)
}

// TestMemoryPause: the pause follows the duration of recent binds, and ends with its
// context.
func TestMemoryPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory, err := new(Directory).newMemory()
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
			t.Errorf("after one bind: got a pause of %v, want 80ms", took)
		}
		memory.bindTook(160 * time.Millisecond)
		if took := pauses(t.Context()); took != 90*time.Millisecond {
			t.Errorf("after a slow bind: got a pause of %v, want 90ms", took)
		}
		for range 100 {
			memory.bindTook(20 * time.Millisecond)
		}
		if took := pauses(t.Context()); took < 20*time.Millisecond || took > 21*time.Millisecond {
			t.Errorf("after many quick binds: got a pause of %v, want 20ms to 21ms", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if took := pauses(ctx); took != time.Millisecond {
			t.Errorf("after the end of the context: got a pause of %v, want 1ms", took)
		}
	})
}
