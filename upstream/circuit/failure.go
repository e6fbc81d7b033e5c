package circuit

import "time"

// Failure is a request that could not be answered.
type Failure struct {
	// Err is the error of the request.
	Err error

	// Limited reports that the address answers, but limits requests.
	Limited bool

	// Outage reports that the address as a whole may be down.
	Outage bool

	// Unconfirmed reports that this failure alone cannot make the address count as down:
	// another request might have succeeded, as a GET may where a HEAD fails.
	Unconfirmed bool

	// Repository is what the request was about, or "" for /v2/.
	Repository string

	// RetryAfter is how long the address asks not to be asked, or 0.
	RetryAfter time.Duration
}

// Effect is what a failure means for an address.
type Effect struct {
	Pause    time.Duration // the length of a pause that begins, or 0
	WentDown bool          // the address is down now
	CameUp   bool          // the address was down, and has answered
	Doubtful bool          // another failure, at /v2/, would mean that the address is down
}

// Turn is the permission to send a request to an address.
type Turn struct {
	// Check reports that the request is the trial of an address that is down: the caller
	// sends the version check first, and calls Proved or Failed.
	Check bool

	failures uint64 // that were counted before the request
	answers  uint64 // that were received before it
	trial    bool
}

// Held tells why a request must not be sent.
type Held struct {
	// Failure is the last one. It may be about another repository.
	Failure

	// IsDown reports whether the address is down.
	IsDown bool

	// OnTrial reports that another request is on trial, which usually takes less than
	// Left.
	OnTrial bool

	// Left is the rest of the pause, or the longest time that the trial may take.
	Left time.Duration
}

// State is what a [Breaker] knows about its address.
type State struct {
	// DownSince is the time of the failure after which the address is down, and zero if
	// it is up.
	DownSince time.Time

	// Until is the end of the pause or the trial, and zero if there is none. It may have
	// passed: the next request is then sent.
	Until time.Time

	// Cause is the failure that has caused the pause, or nil.
	Cause *Failure

	// Last is the last failure, also after an answer, and At its time.
	Last *Failure
	At   time.Time
}
