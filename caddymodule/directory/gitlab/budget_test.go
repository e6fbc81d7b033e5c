package gitlab

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabapi"
)

// testBudget returns a budget with a fake clock.
func testBudget(t *testing.T) (b *budget, clock *time.Time) {
	t.Helper()
	b, err := newBudget()
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1e9, 0)
	b.now = func() time.Time { return now }
	return b, &now
}

// TestBudgetTake: the limits on unknown logins within the window, in all, from one address
// and from unknown addresses, and the time until the next one is possible.
func TestBudgetTake(t *testing.T) {
	b, now := testBudget(t)
	take := func(n int, subnet string, friendly bool) (taken int, wait time.Duration) {
		for range n {
			_, err := b.take(directory.Login{Subnet: subnet, Friendly: friendly})
			if trouble := (*gitlabapi.Trouble)(nil); errors.As(err, &trouble) {
				wait = trouble.Wait
				if trouble.Away {
					t.Error("GitLab would be left alone by all, want only this login refused")
				}
			} else if err == nil {
				taken++
			}
		}
		return taken, wait
	}
	expect := func(what string, n int, subnet string, friendly bool, wantTaken int, wantWait time.Duration) {
		t.Helper()
		if taken, wait := take(n, subnet, friendly); taken != wantTaken || wait != wantWait {
			t.Errorf("%s: got %d and a wait of %s, want %d and %s", what, taken, wait, wantTaken, wantWait)
		}
	}
	expect("one address", 9, "192.0.2.1", false, deployEach, deployWindow)
	*now = now.Add(time.Minute)
	for i := range 10 {
		take(1, fmt.Sprint("198.51.100.", i), false)
	}
	expect("one more stranger", 1, "203.0.113.1", false, 0, deployWindow-time.Minute)
	expect("a known place", 9, "192.0.2.9", true, deployLogins-deployStrangers, deployWindow)
	expect("another known place", 1, "192.0.2.10", true, 0, deployWindow-time.Minute)
	*now = now.Add(deployWindow - time.Minute)
	expect("the first address again", 9, "192.0.2.1", false, deployEach, deployWindow)
	right, err := b.take(directory.Login{Subnet: "192.0.2.8", Friendly: true})
	if err == nil || right != nil {
		t.Errorf("got %v, want none left for anybody", err)
	}
	*now = now.Add(deployWindow)
	for range 3 * deployLogins { // right ones do not count
		if right, err = b.take(directory.Login{Subnet: "192.0.2.8"}); err != nil {
			t.Fatal(err)
		}
		right()
	}
}
