package caddymodule

import (
	"net/http"
	"slices"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
)

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

// cacheStatus is a storage as the admin API shows it.
type cacheStatus struct {
	Storage string                `json:"storage"`
	Groups  map[string]groupUsage `json:"groups"` // as last measured
	Fills   []fillStatus          `json:"fills"`  // under way, the oldest first
	Scrub   scrubState            `json:"scrub"`
}

// groupUsage is what a group has stored, as last measured.
type groupUsage struct {
	Bytes    int64     `json:"bytes"`
	Blobs    int       `json:"blobs"`
	Quota    int64     `json:"quota,omitempty"` // in bytes
	Measured time.Time `json:"measured"`
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

// storages returns the running sites, one for each storage.
func storages() ([]*runningSite, error) {
	sites, err := adminSites(nil)
	if err != nil {
		return nil, err
	}
	seen := make(map[any]bool)
	return slices.DeleteFunc(sites, func(s *runningSite) bool {
		before := seen[s.storage]
		seen[s.storage] = true
		return before
	}), nil
}

func adminCache(r *http.Request) (int, any, error) {
	if _, err := adminQuery(r); err != nil {
		return 0, nil, err
	}
	sites, err := storages()
	if err != nil {
		return 0, nil, err
	}
	all := cacheStatuses{}
	for _, s := range sites {
		all.Caches = append(all.Caches, s.status())
	}
	return http.StatusOK, all, nil
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
	sites, err := storages()
	if err != nil {
		return 0, nil, err
	}
	all := cacheStatuses{}
	for _, s := range sites {
		s.scrub(order.Rate)
		all.Caches = append(all.Caches, s.status())
	}
	return http.StatusAccepted, all, nil
}
