package pullthrough

import (
	"context"
	"errors"
	"math"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/ratelimit"
)

// Forever is a [Config.StaleFor] without a limit.
const Forever time.Duration = math.MaxInt64

// Reason says why an answer is [Stale]. It is in lower case, without spaces.
type Reason string

// The reasons of stale answers.
const (
	Slow        Reason = "slow"            // upstream has not answered within Config.Patience; the question goes on
	Unreachable Reason = "unreachable"     // no connection, a transfer that broke off, or a passing error of upstream
	TimedOut    Reason = "timeout"         // no answer at all
	RateLimited Reason = "rate-limited"    // 429
	NotFound    Reason = "not-found"       // upstream does not have the tag or the repository, any more
	Denied      Reason = "denied"          // upstream denies access to the repository, or hides that it was deleted
	Login       Reason = "login-rejected"  // the configured login was rejected, or cannot be used
	Invalid     Reason = "invalid-answer"  // upstream has answered with something that is not valid
	Offline     Reason = "offline"         // upstream must not be asked
	Busy        Reason = "too-busy"        // too many other questions are in progress
	Failed      Reason = "upstream-failed" // anything else
)

// errImpatient is the cause of the end of a wait for upstream where there is a stale
// answer. The question goes on.
var errImpatient = errors.New("no answer yet; still waiting for it in the background")

// ReasonOf returns the reason of a stale answer that is served because of an error,
// such as the one that [Hooks.Stale] receives.
func ReasonOf(err error) Reason {
	switch upstream.KindOf(err) {
	case upstream.Unavailable:
		return Unreachable
	case upstream.Timeout:
		return TimedOut
	case upstream.RateLimited:
		return RateLimited
	case upstream.NameUnknown, upstream.ManifestUnknown, upstream.BlobUnknown:
		return NotFound
	case upstream.Denied:
		return Denied
	case upstream.Credentials, upstream.Withheld:
		return Login
	case upstream.Invalid, upstream.Unsupported, upstream.Refused, upstream.Loop:
		return Invalid
	case upstream.Offline:
		return Offline
	}
	switch {
	case errors.Is(err, errImpatient):
		return Slow
	case errors.Is(err, ratelimit.ErrNoPull):
		return RateLimited
	case errors.Is(err, context.DeadlineExceeded):
		return TimedOut
	case errors.Is(err, ErrTooManyQuestions):
		return Busy
	}
	return Failed
}

// Origin says where an answer comes from.
type Origin struct {
	Status Status

	// Reason is set if Status is [Stale].
	Reason Reason

	// Checked is when upstream last confirmed what a tag stands for, or sent a
	// list. It is zero for content by digest, which needs no confirmation, and if
	// it is not known because an earlier version has recorded the tag.
	Checked time.Time
}

// ageSince returns the time since an answer was confirmed: the longest duration if it
// is not known, or if it is in the future because the clock was set back since.
func ageSince(checked time.Time) time.Duration {
	if age := time.Since(checked); age >= 0 && !checked.IsZero() {
		return age
	}
	return Forever
}

func (r *Repository) isFresh(checked time.Time) bool {
	age := ageSince(checked)
	return age < r.config.FreshFor || age < r.stretched(r.config.FreshFor)
}

// mayServe reports whether an answer may be served although it is not fresh.
func (r *Repository) mayServe(checked time.Time) bool {
	return r.config.StaleFor > 0 && ageSince(checked) <= r.config.StaleFor
}

// hastyPatience takes the place of a longer Config.Patience while upstream has not
// answered anything since a request gave up waiting for it.
const hastyPatience = 10 * time.Millisecond

// patient returns a context for a request that has a stale answer. It ends when
// Config.Patience has passed since the question was asked: once a request has
// given up waiting for the answer, later ones do not wait for it, and those about other
// tags wait only for hastyPatience until upstream answers something.
func (r *Repository) patient(ctx context.Context, question string) (waiting context.Context, done func()) {
	patience, upstreamIsSlow := r.config.Patience, r.config.Registry.IsSlow()
	if upstreamIsSlow {
		patience = min(patience, hastyPatience)
	}
	waiting, cancel := context.WithDeadlineCause(ctx, r.config.Flights.since(r.key(question)).Add(patience), errImpatient)
	return waiting, func() {
		if !upstreamIsSlow && context.Cause(waiting) == errImpatient {
			r.config.Registry.NoteSlow()
		}
		cancel()
	}
}
