package store

import (
	"context"
	"time"
)

// Walks rest for walkRest after every so many entries, so that a walk over a
// million of them leaves the processor and the disk to pulls.
const (
	WalkStride = 1024
	walkRest   = 2 * time.Millisecond
)

// Paced returns a visit function for a walk that rests after every stride
// entries. The walk ends with ctx's error if ctx ends during a rest.
func Paced[T any](ctx context.Context, stride int, visit func(T) error) func(T) error {
	visited := 0
	return func(entry T) error {
		if visited++; visited%stride == 0 && !Pause(ctx, walkRest) {
			return ctx.Err()
		}
		return visit(entry)
	}
}

// Pause waits for d and reports whether ctx has not ended meanwhile.
func Pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
