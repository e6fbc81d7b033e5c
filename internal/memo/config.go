package memo

import "time"

// Verdict says what an error of a question means.
type Verdict int

const (
	// Failed leaves the question open: an answer that is not stale still serves.
	// If there is one, its key is not asked about again during the pause.
	Failed Verdict = iota
	// AllFailed is Failed for every key: none is asked about during the pause.
	AllFailed
	// Refused is an answer, which is remembered for as long as the pause.
	Refused
)

// Config describes a cache.
type Config[V any] struct {
	// Size is how many values are remembered, and how many refusals. The least
	// recently used ones go first. Refusals do not displace values.
	Size int

	// Fresh is how long a value is used without asking again. The age of an answer
	// counts from the start of the question.
	Fresh time.Duration

	// Stale is the age up to which an answer is used while the service cannot be
	// asked. The default is not to use it.
	Stale time.Duration

	// Unwaited is how long after a pause callers with an answer that is not stale
	// do not wait for the next attempt: they get that answer. By default they wait.
	Unwaited time.Duration

	// Timeout bounds a question.
	Timeout time.Duration

	// Judge returns what an error of a question means, and the pause that
	// [Verdict] describes. By default each error is [Failed] without a pause.
	Judge func(error) (Verdict, time.Duration)

	// Weigh returns the weight of a value, and MaxWeight bounds the sum. By default
	// there is no such bound.
	Weigh     func(V) int
	MaxWeight int

	// Owner returns whose a key is, and MaxOwned bounds the number of values of one
	// owner: the least recently used one of them goes first. By default there is no
	// such bound.
	Owner    func(key string) string
	MaxOwned int
}

// Answer is a value or a refusal, as of a time.
type Answer[V any] struct {
	Value V
	Err   error // of a refusal
	At    time.Time

	fresh  time.Duration
	paused time.Time // the end of the pause after the last failure
}

// IsFresh reports whether the answer can be used without asking again.
func (a Answer[V]) IsFresh() bool { return time.Since(a.At) < a.fresh }
