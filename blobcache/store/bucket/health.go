package bucket

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/breaker"
)

// ErrPaused means that the bucket was not asked, because it has just failed.
var ErrPaused = breaker.ErrOpen

// health decides when a bucket that fails is asked again. Reads and writes have one
// each, since a bucket that is full or read-only can still be read.
type health struct {
	breaker breaker.Breaker
	failed  func(error) // called when the bucket begins to fail
}

func newHealth(w waits, failed func(error)) *health {
	return &health{breaker.Breaker{Pause: w.pause, MaxPause: w.maxPause}, failed}
}

// check returns an ErrPaused unless the bucket may be asked now. After a pause one
// caller asks, and the others wait for another pause or for its success.
func (h *health) check() error {
	if err := h.breaker.Allow(); err != nil {
		return fmt.Errorf("the bucket is not asked: %w", err)
	}
	return nil
}

// wait waits until the bucket may be asked. It reports false if ctx ends first.
func (h *health) wait(ctx context.Context) bool { return h.breaker.Wait(ctx) }

// note records the result of a request. Errors that concern one object, and those of
// callers that left, say nothing about the bucket. If it is denied, that may concern some
// objects only, so the pauses stay short.
func (h *health) note(ctx context.Context, err error) {
	answered := err == nil || errors.As(err, new(*refusal)) && !concernsBucket(err)
	first := false
	switch {
	case answered:
		h.breaker.Succeed()
	case ctx.Err() != nil || !concernsBucket(err):
	case isDenied(err):
		first = h.breaker.FailBriefly(err)
	default:
		first = h.breaker.Fail(err)
	}
	if first {
		h.failed(err)
	}
}

// isDown reports whether the bucket has failed for a while.
func (h *health) isDown() bool {
	s := h.breaker.State()
	return s.Failures >= stuckAfter || s.Failures > 0 && time.Since(s.Since) > stuckAfter*h.breaker.Pause
}

// state returns when the bucket began to fail, and its last failure, or zeros.
func (h *health) state() (since time.Time, err error) {
	s := h.breaker.State()
	return s.Since, s.Err
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
