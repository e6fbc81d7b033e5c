package registrytest

import (
	"fmt"
	"net/http"
)

// ResetPulls begins another window of the limit of WithPullLimit, of whose pulls some are
// used up.
func (r *Registry) ResetPulls(used int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.pulls = used
}

// Pulls returns the number of GETs of manifests that count, without those that were
// refused.
func (r *Registry) Pulls() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pulls
}

// limited counts a request for a manifest, sets the headers of the limit, and reports
// whether it has refused the request.
func (r *Registry) limited(w http.ResponseWriter, method string) bool {
	limit := r.options.pullLimit
	if limit == 0 {
		return false
	}
	r.mu.Lock()
	refused := method == http.MethodGet && r.pulls >= limit
	if method == http.MethodGet && !refused {
		r.pulls++
	}
	remaining := max(limit-r.pulls, 0)
	r.mu.Unlock()
	w.Header().Set("RateLimit-Limit", fmt.Sprintf("%d;w=21600", limit))
	w.Header().Set("RateLimit-Remaining", fmt.Sprintf("%d;w=21600", remaining))
	w.Header().Set("Docker-RateLimit-Source", "192.0.2.7")
	if refused {
		w.Header().Set("Retry-After", "60")
		fail(w, http.StatusTooManyRequests, "TOOMANYREQUESTS")
	}
	return refused
}
