package access

import (
	"errors"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/password"
)

// TestBeginCheckSparesTokens checks that an access token of the site is checked
// while too many passwords of unknown clients are.
func TestBeginCheckSparesTokens(t *testing.T) {
	g := newGuard(t)
	attempt := func(address string) *attempt {
		t.Helper()
		a, limited := g.admit(address, "alice", "secret", true)
		if limited != nil {
			t.Fatal(limited)
		}
		return a
	}
	for range maxChecks {
		g.strangers <- struct{}{}
	}
	if _, err := attempt("192.0.2.1").beginCheck(false); !errors.Is(err, password.ErrBusy) {
		t.Errorf("a password: got %v, want ErrBusy", err)
	}
	leave, err := attempt("192.0.2.2").beginCheck(true)
	if err != nil {
		t.Fatalf("an access token: got %v, want a place", err)
	}
	leave()
	if n := g.Checking(); n != maxChecks {
		t.Errorf("got %d checks under way, want %d", n, maxChecks)
	}
}
