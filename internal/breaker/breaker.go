// Package breaker decides when a server that fails is asked again.
//
// A [Breaker] is told how requests end. After a failure it lets no request pass for a
// pause, which doubles with each further failure up to a limit. Then one request tries
// whether the server works again. A success ends that.
package breaker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrOpen means that the server was not asked, because it has just failed.
var ErrOpen = errors.New("it has failed and is left alone for a while")

// Breaker records whether a server fails. Its methods may be called concurrently. The
// fields must not be changed once it is in use.
type Breaker struct {
	// Pause is how long the server is left alone after its first failure. Each
	// further one doubles it, up to MaxPause.
	Pause, MaxPause time.Duration

	// Now returns the present time. The default is time.Now.
	Now func() time.Time

	mu        sync.Mutex
	failures  int
	err       error         // of the last failure
	since     time.Time     // of the first one
	until     time.Time     // the server may be asked again
	asking    bool          // it is asked after a pause, and the result counts
	recovered chan struct{} // closed by a success; nil unless the server fails
}

// State is what a [Breaker] knows. It is zero unless the server has failed.
type State struct {
	Failures int       // since the last success, as far as they count
	Err      error     // of the last one
	Since    time.Time // of the first one
	Until    time.Time // the end of the pause
}

// Allow returns an [ErrOpen] unless the server may be asked now. After a pause one
// caller asks, and the others wait for another pause or for its success.
func (b *Breaker) Allow() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures == 0 {
		return nil
	}
	now := b.now()
	if now.Before(b.until) {
		return fmt.Errorf("%w: %w", ErrOpen, b.err)
	}
	b.until, b.asking = now.Add(b.pause()), true
	return nil
}

// Sleep waits while Allow returns an error: until the end of the pause or a success. It
// ends early with ctx, or when it receives from wake.
func (b *Breaker) Sleep(ctx context.Context, wake <-chan struct{}) {
	b.mu.Lock()
	left, recovered := b.until.Sub(b.now()), b.recovered
	b.mu.Unlock()
	if recovered == nil {
		return
	}
	timer := time.NewTimer(max(left, 0))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-wake:
	case <-recovered:
	case <-timer.C:
	}
}

// Open reports whether Allow would return an error.
func (b *Breaker) Open() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failures > 0 && b.now().Before(b.until)
}

// Fail records a failure, and reports whether it is the first one after a success. When
// a server begins to fail, many requests may be under way: of these only the first one
// counts, so that the pause does not grow with their number.
func (b *Breaker) Fail(err error) (first bool) { return b.fail(err, true) }

// FailBriefly is Fail for a failure that may not concern all requests. It ends the growth
// of the pauses.
func (b *Breaker) FailBriefly(err error) (first bool) { return b.fail(err, false) }

func (b *Breaker) fail(err error, grow bool) (first bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.failures == 0:
		b.since, b.recovered, first = b.now(), make(chan struct{}), true
	case !b.asking:
		return false
	}
	if b.failures++; !grow {
		b.failures = 1
	}
	b.asking, b.err = false, err
	b.until = b.now().Add(b.pause())
	return first
}

// Succeed records a success, and reports whether the server had failed before.
func (b *Breaker) Succeed() (recovered bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures == 0 {
		return false
	}
	close(b.recovered)
	b.failures, b.err, b.since, b.until, b.asking, b.recovered = 0, nil, time.Time{}, time.Time{}, false, nil
	return true
}

// State returns what is known of the server.
func (b *Breaker) State() State {
	b.mu.Lock()
	defer b.mu.Unlock()
	return State{b.failures, b.err, b.since, b.until}
}

func (b *Breaker) pause() time.Duration {
	return min(b.Pause<<min(max(b.failures-1, 0), 16), b.MaxPause)
}

func (b *Breaker) now() time.Time {
	if b.Now == nil {
		return time.Now()
	}
	return b.Now()
}
