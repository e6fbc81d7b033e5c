package upstream

import (
	"sync"
	"time"
)

const (
	// minPause is the first pause of an address that cannot answer. It doubles
	// with each further failure, up to maxPause.
	minPause = time.Second
	maxPause = time.Minute
)

// pause keeps requests from an address of [Mirrors] that could not answer. The
// first request after a pause is a trial: until it has ended, no other request is
// sent there, so that an address that is down delays a single request. An answer
// ends the pause. The zero value is ready for use, and does not pause.
type pause struct {
	mu       sync.Mutex
	until    time.Time     // of the pause or the trial, zero if the last request was answered
	length   time.Duration // of the last pause
	failures uint64        // that were counted
	last     *Error        // the last failure, nil if until is zero
}

// turn is the permission to send a request to an address.
type turn struct {
	failures uint64 // that were counted before the request
	trial    bool
}

// take returns the permission to send a request. During a pause, and while another
// request is on trial, it returns an error of the last failure's kind.
func (p *pause) take(now time.Time) (turn, *Error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Before(p.until) {
		return turn{}, p.reason(now)
	}
	trial := p.last != nil
	if trial {
		p.until = now.Add(metadataTimeout) // which no request exceeds
	}
	return turn{p.failures, trial}, nil
}

// force returns the permission to send a request during a pause.
func (p *pause) force() turn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return turn{failures: p.failures}
}

// ends returns when the pause or the trial ends: in the past, unless there is one.
func (p *pause) ends() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.until
}

// answered records that a request was answered.
func (p *pause) answered() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.until, p.length, p.last = time.Time{}, 0, nil
}

// returned gives a permission back whose request has neither failed nor been
// answered.
func (p *pause) returned(t turn, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t.trial && t.failures == p.failures && p.last != nil {
		p.until = now
	}
}

// failed records that a request could not be answered, and returns the pause that
// begins, which lasts at least as long as the address asked for. It returns 0 if
// another request has failed meanwhile, because requests that fail together count
// once, and if the request was sent during a pause, which only gets longer.
func (p *pause) failed(t turn, e *Error, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t.failures != p.failures {
		return 0
	}
	during := !t.trial && now.Before(p.until)
	p.failures++
	p.length = min(max(2*p.length, minPause), maxPause)
	p.last = e
	p.until = now.Add(max(p.length, e.RetryAfter))
	if during {
		return 0
	}
	return p.until.Sub(now)
}

// reason returns an error for a request that is not sent because of the pause. The
// last failure may be about another repository, so the text does not name one.
func (p *pause) reason(now time.Time) *Error {
	e := &Error{Kind: p.last.Kind, Status: p.last.Status, upstream: p.last.upstream, message: "the last request failed", cause: p.last.cause}
	if p.last.RetryAfter > 0 {
		e.RetryAfter = p.until.Sub(now)
	}
	return e
}
