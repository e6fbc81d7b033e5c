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

// GitLab may ban an address for an hour after 30 failed logins at its token service in
// three minutes, and all deploy tokens are sent from this one address. So fewer logins are
// sent that are not known to be right.
const (
	deployWindow = 3 * time.Minute
	// deployLogins is the number of such logins within the window.
	deployLogins = 20
	// deployStrangers is how many of them may come from addresses without an earlier
	// login. These cannot use up the rest, which is for new tokens from known
	// addresses.
	deployStrangers = 15
	// deployEach is how many of them may come from one address.
	deployEach = 5
)

// budgets are the budgets in use, by instance. They outlive a configuration.
var budgets = pool.New[*budget](nil)

// budget counts the logins that were sent to an instance and not accepted.
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

// check returns an error if the login exceeds a limit. The caller holds b.mu.
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
			if n++; n == limit { // the budget is used up until the oldest of them leaves the window
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
		return &gitlabapi.Trouble{What: "a deploy token", Wait: wait, Err: errors.New("too many unknown deploy tokens were tried")}
	}
	return nil
}
