package gitlab

import (
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/pool"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabapi"
)

// GitLab may ban an address for an hour after 30 failed logins at its token
// service in three minutes, and all deploy tokens go there from this one address.
// So it is shown fewer logins of which it is not known that they are right.
const (
	deployWindow = 3 * time.Minute
	// deployLogins is how many unknown logins it is shown within the window.
	deployLogins = 20
	// deployStrangers is how many of them may come from addresses without an earlier
	// login. The rest is for new tokens from known addresses, which unknown addresses
	// cannot use up.
	deployStrangers = 15
	// deployEach is how many of them come from one address.
	deployEach = 5
)

// budgets are by instance, whatever else a directory is configured to ask
// there, and outlive a configuration.
var budgets = pool.New[*budget](nil)

// budget counts the unknown logins that an instance has been shown.
type budget struct {
	now func() time.Time

	mu    sync.Mutex
	shown []*deployShown // within the window, the oldest first
}

type deployShown struct {
	at       time.Time
	subnet   string
	friendly bool
}

func newBudget() (*budget, error) { return &budget{now: time.Now}, nil }

// take counts a login before it is sent to GitLab; right takes the count back once
// GitLab has accepted the login. The error says that the budget is used up, and when
// it will be available again.
func (b *budget) take(login directory.Login) (right func(), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.check(login); err != nil {
		return nil, err
	}
	shown := &deployShown{b.now(), login.Subnet, login.Friendly}
	b.shown = append(b.shown, shown)
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.shown = slices.DeleteFunc(b.shown, func(s *deployShown) bool { return s == shown })
	}, nil
}

// check looks for a place; b.mu is held.
func (b *budget) check(login directory.Login) error {
	now := b.now()
	b.shown = slices.DeleteFunc(b.shown, func(s *deployShown) bool { return now.Sub(s.at) >= deployWindow })
	var wait time.Duration
	full := func(limit int, counts func(*deployShown) bool) {
		n := 0
		for _, s := range slices.Backward(b.shown) {
			if !counts(s) {
				continue
			}
			if n++; n == limit { // the first of the last so many has to go
				wait = max(wait, s.at.Add(deployWindow).Sub(now))
			}
		}
	}
	full(deployLogins, func(*deployShown) bool { return true })
	full(deployEach, func(s *deployShown) bool { return s.subnet == login.Subnet })
	if !login.Friendly {
		full(deployStrangers, func(s *deployShown) bool { return !s.friendly })
	}
	if wait > 0 {
		return &gitlabapi.Trouble{What: "a deploy token", RetryAfter: wait, Err: errors.New("too many deploy tokens that nobody knows were tried")}
	}
	return nil
}
