package blobcache

import (
	"context"
	"time"
)

// Walks rest for walkRest after every so many entries, so that a walk over a
// million of them leaves the processor and the disk to pulls.
const (
	walkStride = 1024
	walkRest   = 2 * time.Millisecond
)

// paced returns a visit function for a walk that rests after every stride
// entries. The walk ends with ctx's error if ctx ends during a rest.
func paced[T any](ctx context.Context, stride int, visit func(T) error) func(T) error {
	visited := 0
	return func(entry T) error {
		if visited++; visited%stride == 0 && !pause(ctx, walkRest) {
			return ctx.Err()
		}
		return visit(entry)
	}
}

// pause waits for d and reports whether ctx has not ended meanwhile.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
