package admin

import (
	"cmp"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/events"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/health"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/metrics"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// Status is the response to a GET of /dependency_proxy/status.
type Status struct {
	Requests RequestStatus `json:"requests"`
	Caches   []CacheStatus `json:"caches"`
	Sites    []SiteStatus  `json:"sites"`

	// DroppedEvents is the number of events that were dropped since the start of the
	// process, see [events.Dropped].
	DroppedEvents int64 `json:"dropped_events"`

	// Errors are the last warnings and errors in the log, the newest first.
	Errors []LogLine `json:"errors"`
}

// RequestStatus counts the manifests and blobs that were served by all sites since the
// start of the process.
type RequestStatus struct {
	Since  time.Time `json:"since"`
	Served uint64    `json:"served"`
	Hits   uint64    `json:"hits"` // part of Served that was not fetched for the request
}

// SiteStatus is the state of what a site depends on.
type SiteStatus struct {
	Name        string           `json:"name"`
	Upstreams   []UpstreamStatus `json:"upstreams"`
	Directories []health.Part    `json:"directories"`
}

// UpstreamStatus is the state of an address of an upstream, used with one login.
type UpstreamStatus struct {
	Upstream string `json:"upstream"`
	Endpoint string `json:"endpoint"` // host and port
	Login    string `json:"login"`    // the path of the group that has it, or "common"

	Offline     bool       `json:"offline,omitempty"` // by configuration
	Down        bool       `json:"down"`
	DownSince   *time.Time `json:"down_since,omitempty"`
	Until       *time.Time `json:"paused_until,omitempty"` // it is not asked before that
	Limit       string     `json:"exceeded,omitempty"`     // the limit because of which it is not asked
	LastError   string     `json:"last_error,omitempty"`
	LastErrorAt *time.Time `json:"last_error_at,omitempty"`

	Budget *BudgetStatus `json:"budget,omitempty"` // nil if the upstream does not say
}

// BudgetStatus is how many pulls an upstream permits.
type BudgetStatus struct {
	Limit     int64     `json:"limit"`
	Remaining int64     `json:"remaining"`
	Window    float64   `json:"window_seconds,omitempty"`
	Seen      time.Time `json:"seen"`
}

// status returns the state of all running sites, or of those with a name.
func status(r *http.Request) (int, any, error) {
	query, err := ParseQuery(r, "site")
	if err != nil {
		return 0, nil, err
	}
	sites, err := sitesNamed(siteParameter(query))
	if err != nil {
		return 0, nil, err
	}
	total := metrics.Total()
	s := Status{Requests: RequestStatus{Since: total.Since.UTC()}, DroppedEvents: events.Dropped(), Errors: Recent()}
	s.Requests.Hits, s.Requests.Served = total.Hits()
	seen := make(map[any]bool)
	for _, site := range sites {
		if !seen[site.Storage] {
			seen[site.Storage] = true
			s.Caches = append(s.Caches, site.Status())
		}
		s.Sites = append(s.Sites, SiteStatus{
			Name: site.Name, Upstreams: upstreamStates(site.Upstreams), Directories: site.Health.Report(r.Context(), false).Directories,
		})
	}
	return http.StatusOK, s, nil
}

func upstreamStates(upstreams []metrics.Upstream) (states []UpstreamStatus) {
	for _, u := range upstreams {
		for _, login := range slices.Sorted(maps.Keys(u.Logins)) {
			for _, state := range u.Logins[login].States() {
				states = append(states, upstreamState(cmp.Or(login, "common"), state, time.Now()))
			}
		}
	}
	return states
}

func upstreamState(login string, s upstream.State, now time.Time) UpstreamStatus {
	u := UpstreamStatus{
		Upstream: s.Upstream, Endpoint: s.Host, Login: login, Offline: s.Offline, Down: s.Down, DownSince: known(s.DownSince),
		LastError: s.LastError, LastErrorAt: known(s.LastErrorAt),
	}
	if s.Until.After(now) {
		u.Until = known(s.Until)
		if s.Exceeded != upstream.Unlimited {
			u.Limit = s.Exceeded.String()
		}
	}
	if s.Budget != (upstream.Budget{}) {
		u.Budget = &BudgetStatus{s.Budget.Limit, s.Budget.Remaining, s.Budget.Window.Seconds(), s.Budget.Seen.UTC()}
	}
	return u
}

// known returns nil for the zero time.
func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return new(t.UTC())
}
