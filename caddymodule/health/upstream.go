package health

import (
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/ratelimit"
)

// Upstream is the state of one address of an upstream, asked with one login.
type Upstream struct {
	Name string `json:"name"`
	Host string `json:"host"` // of the address

	// Login is "common" for the login of the upstream, or the path of the group
	// whose login it is.
	Login string `json:"login"`

	// State is "up", "down", "limited" while the address limits requests or has no
	// pulls left, "paused" while another address is asked in its place, or "offline"
	// if the configuration says so.
	State string `json:"state"`

	// Since is when the address went down, and Until the end of the pause in which
	// it is not asked; both are zero if they do not apply.
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"`

	// Limit describes the limit because of which the address is not asked, if State is
	// "limited".
	Limit string `json:"limit,omitempty"`

	// Error is the text of the last failure, which stays when the address answers
	// again, and ErrorAt its time.
	Error   string    `json:"error,omitempty"`
	ErrorAt time.Time `json:"error_at,omitzero"`

	// Budget is nil if the registry announces no limit of pulls.
	Budget *Budget `json:"budget,omitempty"`

	// Waiting is the number of moved tags whose images wait for a budget.
	Waiting int `json:"waiting,omitempty"`
}

// Budget is what a registry says about its limit of pulls.
type Budget struct {
	Limit     int64     `json:"limit"`
	Remaining int64     `json:"remaining"`
	Window    float64   `json:"window,omitempty"` // in seconds; 0 if it is not known
	Source    string    `json:"source,omitempty"` // what the pulls are counted for
	Seen      time.Time `json:"seen"`
}

// Hours returns the length of the window in hours, or 0 if it is shorter or not
// known.
func (b Budget) Hours() int { return int(b.Window / 3600) }

// Low returns the number of pulls below which few are left, 20 % of the limit.
func (b Budget) Low() int64 { return b.Limit / 5 }

// NewUpstream returns the state of an address at a time.
func NewUpstream(login string, s upstream.State, now time.Time) Upstream {
	u := Upstream{
		Name: s.Upstream, Host: s.Host, Login: login, State: "up",
		Error: s.LastError, ErrorAt: s.LastErrorAt.UTC(), Waiting: s.PullsWaiting,
	}
	if s.LastErrorAt.IsZero() {
		u.ErrorAt = time.Time{}
	}
	if s.Until.After(now) {
		u.State, u.Until = "paused", s.Until.UTC()
		if s.Exceeded != ratelimit.Unlimited {
			u.State, u.Limit = "limited", s.Exceeded.String()
		}
	} else if s.PullsUntil.After(now) {
		u.State, u.Until, u.Limit = "limited", s.PullsUntil.UTC(), ratelimit.Pulls.String()
	}
	if s.Down {
		u.State, u.Since = "down", s.DownSince.UTC()
	}
	if s.Offline { // it is not asked, so it is neither down nor paused
		u.State = "offline"
	}
	if b := s.Budget; b.Limit > 0 {
		u.Budget = &Budget{Limit: b.Limit, Remaining: b.Remaining, Window: b.Window.Seconds(), Source: b.Source, Seen: b.Seen.UTC()}
	}
	return u
}
