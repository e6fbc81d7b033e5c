package bucket

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrPaused means that the bucket was not asked, because it has just failed.
var ErrPaused = errors.New("the bucket has failed and is left alone for a while")

// health decides when a bucket that fails is asked again. Reads and writes have one
// each, since a bucket that is full or read-only can still be read.
type health struct {
	waits  waits
	failed func(error) // called when the bucket begins to fail

	mu        sync.Mutex
	failures  int
	err       error         // of the last failure
	since     time.Time     // of the first one
	until     time.Time     // the bucket is asked again
	asking    bool          // it was asked after a pause, and the result counts
	recovered chan struct{} // closed when it answers; nil unless it fails
}

// check returns an ErrPaused unless the bucket may be asked now. After a pause one
// caller asks, and the others wait for another pause or for its success.
func (h *health) check() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.failures == 0 {
		return nil
	}
	now := time.Now()
	if now.Before(h.until) {
		return fmt.Errorf("%w: %w", ErrPaused, h.err)
	}
	h.until, h.asking = now.Add(h.pause()), true
	return nil
}

func (h *health) pause() time.Duration {
	return min(h.waits.pause<<min(max(h.failures-1, 0), 16), h.waits.maxPause)
}

// wait waits until the bucket may be asked. It reports false if ctx ends first.
func (h *health) wait(ctx context.Context) bool {
	for h.check() != nil {
		h.mu.Lock()
		left, recovered := time.Until(h.until), h.recovered
		h.mu.Unlock()
		if recovered == nil {
			continue // meanwhile
		}
		timer := time.NewTimer(max(left, 0))
		select {
		case <-ctx.Done():
		case <-recovered:
		case <-timer.C:
		}
		timer.Stop()
		if ctx.Err() != nil {
			return false
		}
	}
	return ctx.Err() == nil
}

// note records the result of a request. Errors that concern one object, and those of
// callers that left, say nothing about the bucket. When the bucket begins to fail, many
// requests may be under way: only the first one of them counts, so that the pause does
// not grow with their number.
func (h *health) note(ctx context.Context, err error) {
	answered := err == nil || errors.As(err, new(*refusal)) && !concernsBucket(err)
	if !answered && (ctx.Err() != nil || !concernsBucket(err)) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if answered {
		if h.failures > 0 {
			close(h.recovered)
		}
		h.failures, h.err, h.since, h.asking, h.recovered = 0, nil, time.Time{}, false, nil
		return
	}
	if h.failures == 0 {
		h.since, h.recovered = time.Now(), make(chan struct{})
		h.failed(err)
	} else if !h.asking {
		return
	}
	h.asking = false
	if h.failures++; isDenied(err) {
		h.failures = 1 // it may be denied to some objects only, so the pauses stay short
	}
	h.err = err
	h.until = time.Now().Add(h.pause())
}

// isDown reports whether the bucket has failed for a while.
func (h *health) isDown() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.failures >= stuckAfter || h.failures > 0 && time.Since(h.since) > stuckAfter*h.waits.pause
}

// state returns when the bucket began to fail, and its last failure, or zeros.
func (h *health) state() (since time.Time, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.since, h.err
}

// GivenUp records that a caller of [Store.Fetch] gave up a body because it was too slow
// or broke off. The bucket is left alone for a while.
func (s *Store) GivenUp(err error) { s.reads.note(context.Background(), err) }

// noteRead records the result of a read that must end with ctx.
func (s *Store) noteRead(ctx context.Context, err error) {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		ctx, err = context.WithoutCancel(ctx), ctx.Err() // the bucket is too slow
	}
	s.reads.note(ctx, err)
}
