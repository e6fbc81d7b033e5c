package tokenissuer

import (
	"context"
	"errors"
	"sync"
	"time"
)

var (
	errAbandoned   = errors.New("abandoned")
	errNotAdmitted = errors.New("not admitted")
)

// flight lets one caller do a piece of work for all who want it done now.
type flight struct {
	mu      sync.Mutex
	current *outcome
}

type outcome struct {
	done chan struct{}
	err  error
}

// do runs work in the caller's goroutine, or waits for the run under way and
// shares its result. led tells which; a follower's run may have begun before
// the follower's reason to want it. A follower leaves when its context ends.
//
// admit, if not nil, decides whether a new run may begin (errNotAdmitted); to
// follow one needs no admission. It is asked when no run is under way and sees
// what the last one achieved.
func (f *flight) do(ctx context.Context, admit func() bool, work func() error) (led bool, err error) {
	f.mu.Lock()
	if o := f.current; o != nil {
		f.mu.Unlock()
		select {
		case <-o.done:
			return false, o.err
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
	if admit != nil && !admit() {
		f.mu.Unlock()
		return false, errNotAdmitted
	}
	return true, f.lead(work)
}

// try runs work unless a run is under way, and never waits for one.
func (f *flight) try(work func() error) {
	f.mu.Lock()
	if f.current != nil {
		f.mu.Unlock()
		return
	}
	_ = f.lead(work)
}

// lead runs work; f.mu is held on entry and not on return. Should work panic,
// the followers get errAbandoned and the flight is free again.
func (f *flight) lead(work func() error) error {
	o := &outcome{done: make(chan struct{}), err: errAbandoned}
	f.current = o
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.current = nil
		f.mu.Unlock()
		close(o.done)
	}()
	o.err = work()
	return o.err
}

// limiter allows burst events at once and one per interval in the long run.
// The zero time is a full bucket.
type limiter struct {
	interval time.Duration
	burst    int

	mu   sync.Mutex
	next time.Time // when the bucket will be full again
}

func (l *limiter) allow(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	full := l.next
	if full.Before(now) {
		full = now
	}
	// A clock that was far ahead and has been put right must not close the
	// bucket until it gets there again.
	room := time.Duration(l.burst-1) * l.interval
	if ahead := full.Sub(now); ahead > room {
		if ahead <= room+l.interval {
			return false
		}
		full = now
	}
	l.next = full.Add(l.interval)
	return true
}
