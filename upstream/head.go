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

	// headSkipPeriod is how long no HEAD is sent to a registry that rejects each
	// one.
	headSkipPeriod = time.Hour

	// maxVerdicts is the number of references for which the result of the last
	// GET is remembered.
	maxVerdicts = 1024
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
//
// If HEAD is of no use, none is sent for headSkipPeriod: no HEAD has succeeded yet,
// and the registry does not know the method, or one has failed for a reference that
// a GET had found before.
type headHistory struct {
	mu             sync.Mutex
	succeeded      bool      // a HEAD was answered with 200
	confirmedAt    time.Time // last time a GET confirmed an absence
	contradictedAt time.Time // last time a GET found content that HEAD had reported absent
	uselessAt      time.Time // last time a HEAD turned out to be of no use
	verdicts       *lru.Cache[string, verdict]
}

// verdict is the result of a GET that has followed a HEAD for a reference.
type verdict struct {
	kind Kind // of the error, Other if the GET has found the reference
	at   time.Time
}

func newHeadHistory() *headHistory {
	verdicts, err := lru.New[string, verdict](maxVerdicts)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &headHistory{verdicts: verdicts}
}

// recordSuccess records that a HEAD was answered with 200.
func (h *headHistory) recordSuccess() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.succeeded = true
}

// headError returns the error for a HEAD response other than 200 if a GET is not
// needed, because HEAD is trusted or the registry is overloaded. It returns nil if a GET
// has to decide: in all other cases, and if the next failure may mean that the registry
// is down. It closes the response.
func (r *Registry) headError(h *headHistory, head *call, ref string, resp *response) error {
	if isOverload(resp.StatusCode) && r.pause.IsSuspect() {
		_ = resp.Body.Close()
		return nil
	}
	kind, conclusive := h.conclusive(ref, resp, r.now())
	if !conclusive {
		_ = resp.Body.Close()
		return nil
	}
	return r.conclusiveError(head, resp, kind)
}

// conclusiveError returns the error for a HEAD response that needs no GET. The kind is
// that of the last GET, or Other.
func (r *Registry) conclusiveError(head *call, resp *response, kind Kind) *Error {
	e := r.statusError(head, resp)
	if e.Kind == head.notFound && kind != Other {
		e.Kind = kind // the body of the GET was more specific
	}
	return e
}

// conclusive reports whether a HEAD response other than 200 needs no GET. The kind
// is that of the last GET for the reference within headTrustPeriod, or Other.
func (h *headHistory) conclusive(ref string, resp *response, now time.Time) (kind Kind, ok bool) {
	if status := resp.StatusCode; isOverload(status) || status == http.StatusTooManyRequests || status == http.StatusRequestTimeout {
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
	if v, ok := h.verdicts.Get(ref); ok && v.kind != Other && now.Sub(v.at) < headTrustPeriod {
		return v.kind, true
	}
	return Other, h.succeeded && now.Sub(h.confirmedAt) < headTrustPeriod
}

// useless reports whether a HEAD need not be sent, because it would be of no use.
func (h *headHistory) useless(now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return !h.succeeded && now.Sub(h.uselessAt) < headSkipPeriod
}

// recordGet records the result of the GET that followed a HEAD, nil or an error.
func (h *headHistory) recordGet(ref string, head *response, err error, now time.Time) {
	absent := reportsAbsence(head)
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		before, known := h.verdicts.Get(ref)
		again := known && before.kind == Other && now.Sub(before.at) < headDistrustPeriod
		if again || head.StatusCode == http.StatusMethodNotAllowed || head.StatusCode == http.StatusNotImplemented {
			h.uselessAt = now
		}
		if absent {
			h.contradictedAt, h.confirmedAt = now, time.Time{}
		}
		h.verdicts.Add(ref, verdict{Other, now})
		return
	}
	switch kind := KindOf(err); kind {
	case NameUnknown, ManifestUnknown, BlobUnknown, Denied:
		if absent {
			h.confirmedAt = now
			h.verdicts.Add(ref, verdict{kind, now})
		}
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
