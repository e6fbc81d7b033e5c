package circuit

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

	// maxHold is the longest pause that Failure.RetryAfter can demand.
	maxHold = 10 * time.Minute

	// downAfter is how many failures in a row mean that an address is down.
	downAfter = 3

	// MaxTrial is the time within which a trial must end. If its end is not reported
	// by then, another request is tried.
	MaxTrial = 30 * time.Second
)

// Breaker keeps requests from an address that cannot answer, or that limits the
// requests with a login. The first request after a pause is a trial: until it has
// ended, no other request is sent there, so that an address that is down delays a
// single request. An answer ends the pause.
//
// The address is down after three failures in a row, from at least two repositories or
// from /v2/, that are a [Failure.Outage].
//
// The first pause is 1 s, and each further one twice as long, up to 1 min; from the second
// one on, it is up to a fifth shorter, at random. The zero value is ready for use, and does
// not pause. A Breaker is safe for concurrent use.
type Breaker struct {
	mu       sync.Mutex
	until    time.Time     // of the pause or the trial, zero if the last request was answered
	onTrial  time.Time     // until, if that is of a trial
	length   time.Duration // of the last pause
	failures uint64        // that began or extended a pause
	last     *Failure      // the last failure, nil if until is zero

	answers    uint64    // that were received
	row        int       // counted failures since the last answer
	repository string    // of the first of them
	several    bool      // they are from several repositories, or from /v2/
	down       time.Time // since when the address is down, zero if it is not
	proven     bool      // it is down, but has answered the version check of a trial

	slow    bool   // a request has given up waiting
	slowFor uint64 // answers before it

	recent   *Failure // the last failure, also after an answer
	recentAt time.Time
}

// Take returns the permission to send a request. During a pause, and while another
// request is on trial, it returns why the request must not be sent.
func (b *Breaker) Take(now time.Time) (Turn, *Held) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if now.Before(b.until) {
		return Turn{}, b.reason(now)
	}
	trial := b.last != nil
	if trial {
		b.until = now.Add(MaxTrial)
		b.onTrial = b.until
	}
	return Turn{Check: trial && !b.down.IsZero() && !b.proven, failures: b.failures, answers: b.answers, trial: trial}, nil
}

// Proved records that the version check of a trial was answered: the next request goes
// on with the trial.
func (b *Breaker) Proved(t Turn, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t.failures == b.failures && !b.down.IsZero() {
		b.proven, b.until = true, now
	}
}

// Held returns why a request must not be sent, or nil if the address has answered
// meanwhile.
func (b *Breaker) Held(now time.Time) *Held {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.last == nil {
		return nil
	}
	return b.reason(now)
}

// Force returns the permission to send a request during a pause.
func (b *Breaker) Force() Turn {
	b.mu.Lock()
	defer b.mu.Unlock()
	return Turn{failures: b.failures, answers: b.answers}
}

// Ends returns the end of the pause or the trial. It has passed if there is neither.
func (b *Breaker) Ends() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.until
}

// IsStrict reports whether no request may be sent during the pause, because the
// address is down or has said how long to wait.
func (b *Breaker) IsStrict() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.down.IsZero() || b.last != nil && b.last.RetryAfter > 0
}

// IsSuspect reports whether another failure may mean that the address is down.
func (b *Breaker) IsSuspect() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.row >= downAfter-1
}

// Answered records that a request was answered, and reports whether the address was
// down. An answer to a request from before the address began to limit requests does not
// end that pause.
func (b *Breaker) Answered(t Turn) (cameUp bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answers++
	b.row, b.several, b.proven = 0, false, false
	cameUp = !b.down.IsZero()
	b.down = time.Time{}
	if t.failures == b.failures || b.last != nil && !b.last.Limited {
		b.until, b.length, b.last = time.Time{}, 0, nil
	}
	return cameUp
}

// Returned gives a permission back whose request has neither failed nor been
// answered.
func (b *Breaker) Returned(t Turn, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if t.trial && t.failures == b.failures && b.last != nil {
		b.until = now
	}
}

// Failed records that a request could not be answered. A pause begins if the address
// limits requests or is down, and after each failure if atOnce is set. It lasts at least
// as long as the address asked for, up to maxHold. None begins if another request has
// failed meanwhile, because requests that fail together count once. A request that was sent
// during a pause makes that longer, and Effect.Pause is 0.
func (b *Breaker) Failed(t Turn, f *Failure, now time.Time, atOnce bool) Effect {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.recent, b.recentAt = f, now
	before, decided := b.down, true
	switch {
	case f.Limited: // it answers
		b.row, b.several, b.down = 0, false, time.Time{}
	case f.Outage && t.answers == b.answers:
		decided = b.count(f, now)
	}
	result := Effect{
		WentDown: before.IsZero() && !b.down.IsZero(),
		CameUp:   !before.IsZero() && b.down.IsZero(),
		Doubtful: b.row == downAfter-1 && !(b.several && decided) || b.row >= downAfter && b.down.IsZero(),
	}
	switch {
	case t.failures != b.failures:
		return result
	case b.down.IsZero() && !atOnce && !f.Limited:
		if t.trial {
			b.until = now
		}
		return result
	}
	during := !t.trial && now.Before(b.until)
	b.failures++
	b.proven = false
	b.length = min(max(2*b.length, minPause), maxPause)
	b.last = f
	b.until = now.Add(max(b.jittered(), min(f.RetryAfter, maxHold)))
	if !during {
		result.Pause = b.until.Sub(now)
	}
	return result
}

// count counts a failure in a row. It reports false, without counting it, for an
// unconfirmed one that would mean that the address is down. The caller holds the lock.
func (b *Breaker) count(f *Failure, now time.Time) (decided bool) {
	switch {
	case f.Unconfirmed && b.row >= downAfter-1 && b.down.IsZero():
		return false
	case b.row == 0:
		b.repository = f.Repository
	}
	b.several = b.several || f.Repository == "" || f.Repository != b.repository
	b.row++
	if b.row >= downAfter && b.several && b.down.IsZero() {
		b.down = now
	}
	return true
}

// jittered returns the length of the pause, or up to a fifth less, so that many
// proxies do not try an address at the same time.
func (b *Breaker) jittered() time.Duration {
	return max(minPause, b.length-rand.N(b.length/5+1))
}

// NoteSlow records that a request has given up waiting for an answer.
func (b *Breaker) NoteSlow() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.slow, b.slowFor = true, b.answers
}

// IsSlow reports whether there was no answer since a request has given up waiting.
func (b *Breaker) IsSlow() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.slow && b.slowFor == b.answers
}

// reason returns why a request must not be sent. The caller holds the lock.
func (b *Breaker) reason(now time.Time) *Held {
	return &Held{Failure: *b.last, IsDown: !b.down.IsZero(), OnTrial: b.until.Equal(b.onTrial), Left: b.until.Sub(now)}
}

// State returns what is known about the address.
func (b *Breaker) State() State {
	b.mu.Lock()
	defer b.mu.Unlock()
	return State{DownSince: b.down, Until: b.until, Cause: b.last, Last: b.recent, At: b.recentAt}
}
