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
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/peers"
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
	Name        string            `json:"name"`
	Upstreams   []health.Upstream `json:"upstreams"`
	Directories []health.Part     `json:"directories"`

	// Peers are the other nodes of the site, or nil if it has none.
	Peers *peers.State `json:"peers,omitempty"`
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
			Peers: site.Peers(),
		})
	}
	return http.StatusOK, s, nil
}

func upstreamStates(upstreams []metrics.Upstream) (states []health.Upstream) {
	for _, u := range upstreams {
		for _, login := range slices.Sorted(maps.Keys(u.Logins)) {
			for _, state := range u.Logins[login].States() {
				states = append(states, health.NewUpstream(cmp.Or(login, "common"), state, time.Now()))
			}
		}
	}
	return states
}
