package admin

import (
	"net/http"
	"slices"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
)

// ScrubState is what is known of the last check that was asked for.
type ScrubState struct {
	Running bool         `json:"running"`
	Since   time.Time    `json:"since,omitzero"`
	Result  *ScrubResult `json:"result,omitempty"` // of the last one that has ended
	Error   string       `json:"error,omitempty"`
}

type ScrubResult struct {
	Checked int     `json:"checked"` // blobs
	Bytes   int64   `json:"bytes"`
	Damaged int     `json:"damaged"`
	Healed  int     `json:"healed"`  // of those: dropped, to be fetched again
	Seconds float64 `json:"seconds"` // that it took
}

// CacheStatus is a storage as the admin API shows it.
type CacheStatus struct {
	Storage string                `json:"storage"`
	Groups  map[string]GroupUsage `json:"groups"` // as last measured
	Fills   []FillStatus          `json:"fills"`  // under way, the oldest first
	Scrub   ScrubState            `json:"scrub"`
}

// GroupUsage is what a group has stored, as last measured.
type GroupUsage struct {
	Bytes    int64     `json:"bytes"`
	Blobs    int       `json:"blobs"`
	Quota    int64     `json:"quota,omitempty"` // in bytes
	Measured time.Time `json:"measured"`
}

type FillStatus struct {
	Digest  string    `json:"digest"`
	Size    int64     `json:"size"` // in bytes, -1 if not known
	Written int64     `json:"written"`
	Readers int       `json:"readers"`
	Since   time.Time `json:"since"`
}

// CacheList is the answer to a GET of /dependency_proxy/cache, and to a POST
// to /dependency_proxy/cache/scrub.
type CacheList struct {
	Caches []CacheStatus `json:"caches"`
}

// storages returns the running sites, one for each storage.
func storages() ([]*Site, error) {
	sites, err := sitesNamed(nil)
	if err != nil {
		return nil, err
	}
	seen := make(map[any]bool)
	return slices.DeleteFunc(sites, func(s *Site) bool {
		before := seen[s.Storage]
		seen[s.Storage] = true
		return before
	}), nil
}

func cacheStatus(r *http.Request) (int, any, error) {
	if _, err := ParseQuery(r); err != nil {
		return 0, nil, err
	}
	sites, err := storages()
	if err != nil {
		return 0, nil, err
	}
	all := CacheList{}
	for _, s := range sites {
		all.Caches = append(all.Caches, s.Status())
	}
	return http.StatusOK, all, nil
}

// scrubRequest is the body of a POST to /dependency_proxy/cache/scrub.
type scrubRequest struct {
	// Rate is how many bytes a second are read at most; 0 is no bound.
	Rate int64 `json:"rate,omitempty"`
}

// scrub begins to check all that is stored. How that goes the status tells.
func scrub(r *http.Request) (int, any, error) {
	var order scrubRequest
	if err := ReadRequest(r, &order); err != nil {
		return 0, nil, err
	}
	if order.Rate < 0 {
		return 0, nil, access.RequestError("the rate is less than nothing")
	}
	sites, err := storages()
	if err != nil {
		return 0, nil, err
	}
	all := CacheList{}
	for _, s := range sites {
		s.Scrub(order.Rate)
		all.Caches = append(all.Caches, s.Status())
	}
	return http.StatusAccepted, all, nil
}
