package admin

import (
	"net/http"
	"slices"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/storage"
)

// ScrubState is the state of the last check that was requested.
type ScrubState struct {
	Running bool         `json:"running"`
	Since   time.Time    `json:"since,omitzero"`
	Checked int          `json:"checked"`          // number of blobs so far
	Bytes   int64        `json:"bytes"`            // their size
	Result  *ScrubResult `json:"result,omitempty"` // nil until the check has ended
	Error   string       `json:"error,omitempty"`
}

// ScrubResult is the result of a check of the storage.
type ScrubResult struct {
	Checked int     `json:"checked"` // number of blobs
	Bytes   int64   `json:"bytes"`   // their size
	Damaged int     `json:"damaged"` // number of damaged blobs
	Healed  int     `json:"healed"`  // number of damaged blobs that were dropped
	Seconds float64 `json:"seconds"` // duration of the check
}

// CacheStatus is the state of a storage.
type CacheStatus struct {
	Storage string                `json:"storage"`
	Bytes   int64                 `json:"bytes"` // of what is stored
	Blobs   int                   `json:"blobs"` // number of blobs and manifests
	Limit   int64                 `json:"limit"` // in bytes; 0 if it is not known
	Groups  map[string]GroupUsage `json:"groups"`
	Fills   []FillStatus          `json:"fills"` // the oldest first
	Scrub   ScrubState            `json:"scrub"`

	// Remote is the copy of the storage elsewhere, or nil if there is none.
	Remote *storage.RemoteStatus `json:"remote,omitempty"`
}

// GroupUsage is the storage that a group and its subgroups use, as last measured.
type GroupUsage struct {
	Bytes    int64     `json:"bytes"`
	Blobs    int       `json:"blobs"`
	Quota    int64     `json:"quota,omitempty"` // in bytes, 0 means no limit
	Measured time.Time `json:"measured"`
}

// FillStatus is the state of a running download.
type FillStatus struct {
	Digest  string    `json:"digest"`
	Size    int64     `json:"size"`    // in bytes, -1 if unknown
	Written int64     `json:"written"` // in bytes
	Readers int       `json:"readers"` // number of clients
	Since   time.Time `json:"since"`
}

// CacheList is the response to a GET of /dependency_proxy/cache, and to a POST to
// /dependency_proxy/cache/scrub.
type CacheList struct {
	Caches []CacheStatus `json:"caches"`
}

// storages returns one running site for each storage.
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
	list := CacheList{}
	for _, s := range sites {
		list.Caches = append(list.Caches, s.Status())
	}
	return http.StatusOK, list, nil
}

// scrubRequest is the body of a POST to /dependency_proxy/cache/scrub.
type scrubRequest struct {
	// Rate is the limit of the reading, in bytes per second; 0 means no limit.
	Rate int64 `json:"rate,omitempty"`
}

// scrub starts a check of all stored blobs in each storage. The status of the cache
// has its progress and its result.
func scrub(r *http.Request) (int, any, error) {
	var request scrubRequest
	if err := ReadRequest(r, &request); err != nil {
		return 0, nil, err
	}
	if request.Rate < 0 {
		return 0, nil, access.RequestError("rate must not be negative")
	}
	sites, err := storages()
	if err != nil {
		return 0, nil, err
	}
	list := CacheList{}
	for _, s := range sites {
		s.Scrub(request.Rate)
		list.Caches = append(list.Caches, s.Status())
	}
	return http.StatusAccepted, list, nil
}
