// Package breaker decides when a server that fails is asked again.
package breaker

import (
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

	mu       sync.Mutex
	failures int
	err      error     // of the last failure
	since    time.Time // of the first one
	until    time.Time // the server may be asked again
}

// State is what a [Breaker] knows. It is zero unless the server has failed.
type State struct {
	Err   error     // of the last failure
	Since time.Time // of the first failure after the last success
	Until time.Time // the end of the pause
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
	b.until = now.Add(b.pause())
	return nil
}

// Open reports whether Allow would return an error.
func (b *Breaker) Open() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failures > 0 && b.now().Before(b.until)
}

// Fail records a failure, and reports whether it is the first one after a success.
func (b *Breaker) Fail(err error) (first bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures == 0 {
		b.since = b.now()
	}
	b.failures++
	b.err = err
	b.until = b.now().Add(b.pause())
	return b.failures == 1
}

// Succeed records a success, and reports whether the server had failed before.
func (b *Breaker) Succeed() (recovered bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	recovered = b.failures > 0
	b.failures, b.err, b.since, b.until = 0, nil, time.Time{}, time.Time{}
	return recovered
}

// State returns what is known of the server.
func (b *Breaker) State() State {
	b.mu.Lock()
	defer b.mu.Unlock()
	return State{Err: b.err, Since: b.since, Until: b.until}
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
