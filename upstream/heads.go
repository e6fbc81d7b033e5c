package upstream

import (
	"net/http"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

const (
	// headTrust is how long HEAD alone is believed after GET has agreed with it
	// that something does not exist.
	headTrust = time.Hour

	// headDoubt is how long HEAD is believed about nothing after it has said no to
	// what GET has found.
	headDoubt = 24 * time.Hour

	// headAbsences is how many references are remembered as agreed to be absent.
	headAbsences = 1024
)

// headRecord records how reliable a registry's HEAD is for one kind of content. Some
// registries refuse HEAD for what they have, so a GET decides before a refusal
// is passed on. Where both have agreed on an absence, HEAD is believed for an
// hour, so that missing tags cost no counted GETs: about the same reference at
// any time, about others once the registry has also been seen to answer HEAD
// with 200. Else one missing tag would hide all that such a registry has. A registry
// whose HEAD has been wrong is not believed for a day: those that fetch content from
// elsewhere when it is asked for know with HEAD only what they have fetched.
type headRecord struct {
	mu     sync.Mutex
	works  bool      // HEAD has been answered with 200
	agreed time.Time // when GET has last confirmed an absence
	wrong  time.Time // when GET has last found what HEAD had said to be absent
	absent *lru.Cache[string, absence]
}

// absence is the error that GET has returned for a reference, and when.
type absence struct {
	kind Kind
	at   time.Time
}

func newHeadRecord() *headRecord {
	absent, err := lru.New[string, absence](headAbsences)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	return &headRecord{absent: absent}
}

func (h *headRecord) saidYes() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.works = true
}

// refuse returns the error for an answer to HEAD other than 200 that needs no GET:
// a GET would only add to the trouble, or HEAD is believed. It returns nil if a
// GET is to decide, and closes the answer.
func (r *Registry) refuse(h *headRecord, head *call, reference string, a *answer) error {
	kind, settled := h.settles(reference, a, r.now())
	if !settled {
		_ = a.Body.Close()
		return nil
	}
	e := r.refusal(head, a)
	if e.Kind == head.unknown && kind != Other {
		e.Kind = kind // a body has told more than HEAD can
	}
	return e
}

// settles reports whether an answer to HEAD needs no GET, and what GET has said
// of the reference within the hour.
func (h *headRecord) settles(reference string, a *answer, now time.Time) (kind Kind, ok bool) {
	switch a.StatusCode {
	case http.StatusTooManyRequests, http.StatusRequestTimeout,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return Other, true
	}
	if !saysAbsent(a) {
		return Other, false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if now.Sub(h.wrong) < headDoubt {
		return Other, false
	}
	if known, ok := h.absent.Get(reference); ok && now.Sub(known.at) < headTrust {
		return known.kind, true
	}
	return Other, h.works && now.Sub(h.agreed) < headTrust
}

// compare notes what GET has said, nil or an error, after HEAD was answered.
func (h *headRecord) compare(reference string, head *answer, get error, now time.Time) {
	if !saysAbsent(head) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if get == nil {
		h.wrong, h.agreed = now, time.Time{}
		h.absent.Purge()
		return
	}
	switch kind := KindOf(get); kind {
	case NameUnknown, ManifestUnknown, BlobUnknown, Denied:
		h.agreed = now
		h.absent.Add(reference, absence{kind, now})
	}
}

// saysAbsent reports whether an answer means that the content does not exist,
// rather than that the registry, or the storage behind it, does not serve HEAD.
func saysAbsent(a *answer) bool {
	switch a.StatusCode {
	case http.StatusNotFound, http.StatusGone, http.StatusUnauthorized, http.StatusForbidden, http.StatusUnavailableForLegalReasons:
		return !a.foreign
	}
	return false
}
