package access

import (
	"errors"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/password"
)

// TestAttemptTakeSlotForToken checks that an access token of the site gets a slot
// while all slots for passwords of unknown clients are taken.
func TestAttemptTakeSlotForToken(t *testing.T) {
	tt := newThrottleTest(t)
	admit := func(address string) *attempt {
		t.Helper()
		a, limited := tt.admit(address, "alice", "secret", true)
		if limited != nil {
			t.Fatalf("login from %s: got %v, want it admitted", address, limited)
		}
		return a
	}
	for range maxChecks {
		tt.slots.unknown <- struct{}{}
	}
	if _, err := admit("192.0.2.1").takeSlot(false); !errors.Is(err, password.ErrBusy) {
		t.Errorf("a password: got %v, want ErrBusy", err)
	}
	leave, err := admit("192.0.2.2").takeSlot(true)
	if err != nil {
		t.Fatalf("an access token: got %v, want a slot", err)
	}
	leave()
	if n := tt.Checking(); n != maxChecks {
		t.Errorf("running checks: got %d, want %d", n, maxChecks)
	}
}
