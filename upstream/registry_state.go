package upstream

import (
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/ratelimit"
)

// State is the state of one address of an upstream, used with one login.
type State struct {
	// Upstream is the configured name, and Host the host and port of the address.
	Upstream, Host string

	// Offline reports that nothing is sent to the address because the configuration
	// forbids it, see Config.Offline.
	Offline bool

	// Down reports whether the address is down, which it is after three failures in a
	// row, from at least two repositories or from /v2/, until it answers. DownSince is
	// the time of the third, and zero if the address is up.
	Down      bool
	DownSince time.Time

	// Until is the end of the pause during which no request is sent to the address,
	// because it is down or limits requests, or because one of several addresses has
	// failed. It is zero if there is no pause, and may have passed: the next request is
	// then sent, to see whether the address answers.
	Until time.Time

	// Exceeded is the limit that has caused the pause, or [ratelimit.Unlimited].
	Exceeded ratelimit.Limit

	// LastError is the text of the last failure, and LastErrorAt its time. They stay
	// when the address answers again. The text names no repository and contains no
	// credential, token or URL.
	LastError   string
	LastErrorAt time.Time

	// Budget is what the registry has said last about its limit of pulls. It is zero if
	// the registry has not said so within the window of the limit.
	Budget ratelimit.Budget

	// PullsUntil is the end of the pause during which no request is sent that counts as
	// a pull, because Budget is used up. It is zero if there is no such pause.
	PullsUntil time.Time

	// PullsWaiting is how many images wait to be fetched, while few pulls are left,
	// because their tags have moved; see [Mirrors.AwaitPull].
	PullsWaiting int
}

// Change is a change of a [State] that is reported once.
type Change uint8

// The changes.
const (
	// WentDown means that the address is down.
	WentDown Change = iota

	// CameUp means that an address that was down has answered.
	CameUp

	// BudgetLow means that less than 20 % of the budget remains.
	BudgetLow
)

// String returns the name of the change: "went down", "came up" or "budget low".
func (c Change) String() string {
	return [...]string{"went down", "came up", "budget low"}[c]
}

// State returns the state of the registry.
func (r *Registry) State() State {
	now := r.now()
	pause := r.pause.State()
	s := State{Upstream: r.name, Host: r.endpoint.Host, Offline: r.offline,
		Down: !pause.DownSince.IsZero(), DownSince: pause.DownSince, Until: pause.Until,
		Budget: r.budget.Budget(now), PullsUntil: r.pulls.Ends(), PullsWaiting: r.queue.Len()}
	if pause.Cause != nil {
		s.Exceeded = pause.Cause.Err.(*Error).Limit
	}
	if pause.Last != nil {
		s.LastError, s.LastErrorAt = pause.Last.Err.(*Error).reason(), pause.At
	}
	return s
}

// States returns the state of each address, in order.
func (m *Mirrors) States() []State {
	states := make([]State, len(m.registries))
	for i, r := range m.registries {
		states[i] = r.State()
	}
	return states
}

// report calls the hook Changed for a change.
func (r *Registry) report(change Change) {
	if r.hooks.Changed != nil {
		r.hooks.Changed(change, r.State())
	}
}
