package upstream

import (
	"net/http"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	// headTrustPeriod is how long a 404 for HEAD is accepted without a GET after
	// a GET has confirmed an absence.
	headTrustPeriod = time.Hour

	// headDistrustPeriod is how long a 404 for HEAD is not accepted after a GET
	// has found content that HEAD had reported absent.
	headDistrustPeriod = 24 * time.Hour

	// maxAbsences is the number of references whose confirmed absence is
	// remembered.
	maxAbsences = 1024
)

// headHistory records how reliable a registry's HEAD responses are for one kind
// of content.
//
// Some registries reject HEAD for content that they have, so a GET verifies an
// absence. Missing tags must not cost a counted GET each, so after a GET has
// confirmed an absence, HEAD is trusted for headTrustPeriod: for the same
// reference always, and for others only if the registry has also answered a HEAD
// with 200. Otherwise one missing tag would hide everything in a registry that
// rejects every HEAD.
//
// If a GET contradicts HEAD, HEAD is not trusted for headDistrustPeriod.
// Pull-through registries are an example: their HEAD knows only the content that
// an earlier GET made them fetch.
type headHistory struct {
	mu             sync.Mutex
	succeeded      bool      // a HEAD was answered with 200
	confirmedAt    time.Time // last time a GET confirmed an absence
	contradictedAt time.Time // last time a GET found content that HEAD had reported absent
	absent         *lru.Cache[string, absence]
}

// absence records that a GET did not find a reference.
type absence struct {
	kind Kind // of the error
	at   time.Time
}

func newHeadHistory() *headHistory {
	absent, err := lru.New[string, absence](maxAbsences)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &headHistory{absent: absent}
}

// recordSuccess records that a HEAD was answered with 200.
func (h *headHistory) recordSuccess() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.succeeded = true
}

// headError returns the error for a HEAD response other than 200 if a GET is not
// needed: HEAD is trusted, or the registry is overloaded. Otherwise it returns nil
// and a GET has to decide. It closes the response.
func (r *Registry) headError(h *headHistory, head *call, ref string, resp *response) error {
	kind, conclusive := h.conclusive(ref, resp, r.now())
	if !conclusive {
		_ = resp.Body.Close()
		return nil
	}
	e := r.statusError(head, resp)
	if e.Kind == head.notFound && kind != Other {
		e.Kind = kind // the body of the GET was more specific
	}
	return e
}

// conclusive reports whether a HEAD response other than 200 needs no GET. The kind
// is that of the last GET for the reference within headTrustPeriod, or Other.
func (h *headHistory) conclusive(ref string, resp *response, now time.Time) (kind Kind, ok bool) {
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusRequestTimeout,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return Other, true
	}
	if !reportsAbsence(resp) {
		return Other, false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if now.Sub(h.contradictedAt) < headDistrustPeriod {
		return Other, false
	}
	if a, ok := h.absent.Get(ref); ok && now.Sub(a.at) < headTrustPeriod {
		return a.kind, true
	}
	return Other, h.succeeded && now.Sub(h.confirmedAt) < headTrustPeriod
}

// recordGet records the result of the GET that followed a HEAD, nil or an error.
func (h *headHistory) recordGet(ref string, head *response, err error, now time.Time) {
	if !reportsAbsence(head) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		h.contradictedAt, h.confirmedAt = now, time.Time{}
		h.absent.Purge()
		return
	}
	switch kind := KindOf(err); kind {
	case NameUnknown, ManifestUnknown, BlobUnknown, Denied:
		h.confirmedAt = now
		h.absent.Add(ref, absence{kind, now})
	}
}

// reportsAbsence reports whether a response means that the content does not exist
// or is not accessible, as opposed to a registry or storage without support for
// HEAD.
func reportsAbsence(resp *response) bool {
	switch resp.StatusCode {
	case http.StatusNotFound, http.StatusGone, http.StatusUnauthorized, http.StatusForbidden, http.StatusUnavailableForLegalReasons:
		return !resp.foreign
	}
	return false
}
