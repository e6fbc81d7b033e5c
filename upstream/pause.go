package upstream

import (
	"math/rand/v2"
	"sync"
	"time"
)

const (
	// minPause is the first pause of an address that cannot answer. It doubles
	// with each further failure, up to maxPause.
	minPause = time.Second
	maxPause = time.Minute

	// maxHold limits what Retry-After adds to a pause.
	maxHold = 10 * time.Minute

	// downAfter is how many failures in a row mean that an address is down.
	downAfter = 3
)

// pause keeps requests from an address that cannot answer, or that limits the
// requests with a login. The first request after a pause is a trial: until it has
// ended, no other request is sent there, so that an address that is down delays a
// single request. An answer ends the pause. The zero value is ready for use, and does
// not pause.
//
// It is also the circuit breaker of the address, which is down after three failures in
// a row, from at least two repositories or from /v2/, that [Error.ofEndpoint] counts.
type pause struct {
	mu       sync.Mutex
	until    time.Time     // of the pause or the trial, zero if the last request was answered
	onTrial  time.Time     // until, if that is of a trial
	length   time.Duration // of the last pause
	failures uint64        // that began or extended a pause
	last     *Error        // the last failure, nil if until is zero

	answers    uint64    // that were received
	row        int       // counted failures since the last answer
	repository string    // of the first of them
	several    bool      // they are from several repositories, or from /v2/
	down       time.Time // since when the address is down, zero if it is not
	proven     bool      // it is down, but has answered the version check of a trial

	slow    bool   // a request has given up waiting
	slowFor uint64 // answers before it

	recent   *Error // the last failure, also after an answer
	recentAt time.Time

	exact bool // pauses have no jitter; in tests only
}

// turn is the permission to send a request to an address.
type turn struct {
	failures uint64 // that were counted before the request
	answers  uint64 // that were received before it
	trial    bool
	check    bool // the trial begins with the version check
}

// effect is what a failure means for an address.
type effect struct {
	pause    time.Duration // that begins, 0 if none does
	wentDown bool
	cameUp   bool
	doubtful bool // another failure, at /v2/, would mean that the address is down
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
		p.onTrial = p.until
	}
	return turn{p.failures, p.answers, trial, trial && !p.down.IsZero() && !p.proven}, nil
}

// proved records that the version check of a trial was answered: the next request goes
// on with the trial.
func (p *pause) proved(t turn, now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if t.failures == p.failures && !p.down.IsZero() {
		p.proven, p.until = true, now
	}
}

// held returns the error of a request that is not sent.
func (p *pause) held(now time.Time) *Error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.last == nil { // it has answered meanwhile
		return nil
	}
	return p.reason(now)
}

// force returns the permission to send a request during a pause.
func (p *pause) force() turn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return turn{failures: p.failures, answers: p.answers}
}

// ends returns when the pause or the trial ends: in the past, unless there is one.
func (p *pause) ends() time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.until
}

// isStrict reports whether no request may be sent during the pause, because the
// address is down or has said how long to wait.
func (p *pause) isStrict() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.down.IsZero() || p.last != nil && p.last.RetryAfter > 0
}

// isSuspect reports whether another failure may mean that the address is down.
func (p *pause) isSuspect() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.row >= downAfter-1
}

// answered records that a request was answered, and reports whether the address was
// down. An answer to a request from before the address began to limit requests does not
// end that pause.
func (p *pause) answered(t turn) (cameUp bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers++
	p.row, p.several, p.proven = 0, false, false
	cameUp = !p.down.IsZero()
	p.down = time.Time{}
	if t.failures == p.failures || p.last != nil && p.last.Kind != RateLimited {
		p.until, p.length, p.last = time.Time{}, 0, nil
	}
	return cameUp
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

// failed records that a request could not be answered. A pause begins if the address
// limits requests or is down, and after each failure if atOnce is set. It lasts at least
// as long as the address asked for, up to maxHold. None begins if another request has
// failed meanwhile, because requests that fail together count once. That the effect has
// no pause also means that the request was sent during one, which only gets longer.
func (p *pause) failed(t turn, e *Error, now time.Time, atOnce bool) effect {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.recent, p.recentAt = e, now
	before, decided := p.down, true
	switch {
	case e.Kind == RateLimited: // it answers
		p.row, p.several, p.down = 0, false, time.Time{}
	case e.ofEndpoint() && t.answers == p.answers:
		decided = p.count(e, now)
	}
	result := effect{
		wentDown: before.IsZero() && !p.down.IsZero(),
		cameUp:   !before.IsZero() && p.down.IsZero(),
		doubtful: p.row == downAfter-1 && !(p.several && decided) || p.row >= downAfter && p.down.IsZero(),
	}
	switch {
	case t.failures != p.failures:
		return result
	case p.down.IsZero() && !atOnce && e.Kind != RateLimited:
		if t.trial {
			p.until = now
		}
		return result
	}
	during := !t.trial && now.Before(p.until)
	p.failures++
	p.proven = false
	p.length = min(max(2*p.length, minPause), maxPause)
	p.last = e
	p.until = now.Add(max(p.jittered(), min(e.RetryAfter, maxHold)))
	if !during {
		result.pause = p.until.Sub(now)
	}
	return result
}

// count counts a failure in a row. It reports false for that of a HEAD which would mean
// that the address is down: something else has to decide. The caller holds the lock.
func (p *pause) count(e *Error, now time.Time) (decided bool) {
	switch {
	case e.head && p.row >= downAfter-1 && p.down.IsZero():
		return false
	case p.row == 0:
		p.repository = e.repository
	}
	p.several = p.several || e.repository == "" || e.repository != p.repository
	p.row++
	if p.row >= downAfter && p.several && p.down.IsZero() {
		p.down = now
	}
	return true
}

// jittered returns the length of the pause, or up to a fifth less, so that many
// proxies do not try an address at the same time.
func (p *pause) jittered() time.Duration {
	if p.exact {
		return p.length
	}
	return max(minPause, p.length-rand.N(p.length/5+1))
}

// noteSlow records that a request has given up waiting for an answer.
func (p *pause) noteSlow() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.slow, p.slowFor = true, p.answers
}

// isSlow reports whether there was no answer since a request has given up waiting.
func (p *pause) isSlow() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.slow && p.slowFor == p.answers
}

// reason returns an error for a request that is not sent because of the pause. The
// last failure may be about another repository, so the text does not name one.
func (p *pause) reason(now time.Time) *Error {
	message := "the last request failed"
	switch {
	case !p.down.IsZero():
		message = "the registry does not answer; it is tried again from time to time"
	case p.last.Limit != Unlimited:
		message = p.last.Limit.message() + "; the registry is tried again from time to time"
	}
	e := &Error{Kind: p.last.Kind, Status: p.last.Status, Held: true, Limit: p.last.Limit, upstream: p.last.upstream, message: message, cause: p.last.cause}
	switch {
	case p.until.Equal(p.onTrial): // which usually takes less
		e.RetryAfter = time.Second
	case p.last.Kind != RateLimited || p.last.RetryAfter > 0:
		e.RetryAfter = max(time.Second, p.until.Sub(now))
	}
	return e
}
