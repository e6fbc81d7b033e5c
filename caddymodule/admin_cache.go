package caddymodule

import (
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
)

// scrubs are the checks of a storage that somebody asked for: one at a time.
type scrubs struct {
	scrub func(rate int64) (blobcache.Scrubbing, error) // ends with the storage

	mu    sync.Mutex
	state scrubState
}

// scrubState is what is known of the last check that was asked for.
type scrubState struct {
	Running bool       `json:"running"`
	Since   time.Time  `json:"since,omitzero"`
	Result  *scrubbing `json:"result,omitempty"` // of the last one that has ended
	Error   string     `json:"error,omitempty"`
}

type scrubbing struct {
	Checked int     `json:"checked"` // blobs
	Bytes   int64   `json:"bytes"`
	Damaged int     `json:"damaged"`
	Healed  int     `json:"healed"`  // of those: dropped, to be fetched again
	Seconds float64 `json:"seconds"` // that it took
}

// start begins a check unless one is running already.
func (s *scrubs) start(rate int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.Running {
		return
	}
	s.state = scrubState{Running: true, Since: time.Now().UTC()}
	go func() {
		r, err := s.scrub(rate)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.state.Running = false
		s.state.Result = &scrubbing{r.Checked, r.Bytes, r.Damaged, r.Healed, r.Took.Seconds()}
		if err != nil {
			s.state.Error = err.Error()
		}
	}()
}

func (s *scrubs) now() scrubState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// cacheStatus is a storage as the admin API shows it.
type cacheStatus struct {
	Storage string                `json:"storage"`
	Groups  map[string]groupUsage `json:"groups"` // as last measured
	Fills   []fillStatus          `json:"fills"`  // under way, the oldest first
	Scrub   scrubState            `json:"scrub"`
}

type fillStatus struct {
	Digest  string    `json:"digest"`
	Size    int64     `json:"size"` // in bytes, -1 if not known
	Written int64     `json:"written"`
	Readers int       `json:"readers"`
	Since   time.Time `json:"since"`
}

// cacheStatuses is the answer to a GET of /dependency_proxy/cache, and to a POST
// to /dependency_proxy/cache/scrub.
type cacheStatuses struct {
	Caches []cacheStatus `json:"caches"`
}

// adminVaults are the storages of the running sites, each with one that uses it.
func adminVaults() ([]*Handler, error) {
	handlers, err := adminSites(nil)
	if err != nil {
		return nil, err
	}
	seen := make(map[*vault]bool)
	return slices.DeleteFunc(handlers, func(h *Handler) bool {
		before := seen[h.vault]
		seen[h.vault] = true
		return before
	}), nil
}

func adminCache(r *http.Request) (int, any, error) {
	if _, err := adminQuery(r); err != nil {
		return 0, nil, err
	}
	handlers, err := adminVaults()
	if err != nil {
		return 0, nil, err
	}
	all := cacheStatuses{}
	for _, h := range handlers {
		all.Caches = append(all.Caches, h.cacheStatus())
	}
	return http.StatusOK, all, nil
}

func (h *Handler) cacheStatus() cacheStatus {
	status := cacheStatus{Storage: h.vault.name, Groups: make(map[string]groupUsage), Fills: []fillStatus{}, Scrub: h.scrubs.now()}
	for group, total := range h.quotas.Totals() {
		status.Groups[group] = h.usageOf(group, total)
	}
	for _, f := range h.cache.Fills() {
		status.Fills = append(status.Fills, fillStatus{f.Digest.String(), f.Size, f.Written, f.Readers, f.Since.UTC()})
	}
	return status
}

// scrubOrder is the body of a POST to /dependency_proxy/cache/scrub.
type scrubOrder struct {
	// Rate is how many bytes a second are read at most; 0 is no bound.
	Rate int64 `json:"rate,omitempty"`
}

// adminScrub begins to check all that is stored. How that goes the status tells.
func adminScrub(r *http.Request) (int, any, error) {
	var order scrubOrder
	if err := readOrder(r, &order); err != nil {
		return 0, nil, err
	}
	if order.Rate < 0 {
		return 0, nil, access.RequestError("the rate is less than nothing")
	}
	handlers, err := adminVaults()
	if err != nil {
		return 0, nil, err
	}
	all := cacheStatuses{}
	for _, h := range handlers {
		h.scrubs.start(order.Rate)
		all.Caches = append(all.Caches, h.cacheStatus())
	}
	return http.StatusAccepted, all, nil
}
