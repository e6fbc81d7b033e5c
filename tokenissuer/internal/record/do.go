package record

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"golang.org/x/sync/singleflight"
)

// Detach returns a context that ends after [Timeout] and not with ctx. It is
// for work that must be completed, or that others wait for, after the client
// that started it has left.
func Detach(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), Timeout)
}

// Do runs work in a goroutine and returns its result. Concurrent calls with the
// same key share one run. A call returns the cause of its context when that
// ends first; the run goes on for the other callers. The context given to work
// has no deadline, so work must limit what it does with [Detach].
//
// If work panics, all calls that wait for it panic. ([singleflight.Group.DoChan]
// would end the process.)
func Do[T any](ctx context.Context, group *singleflight.Group, key string, work func(context.Context) (T, error)) (T, error) {
	done := group.DoChan(key, func() (value any, err error) {
		defer func() {
			switch v := recover().(type) {
			case nil:
			case *panicError: // of a nested call
				err = v
			default:
				err = &panicError{value: v, stack: debug.Stack()}
			}
		}()
		return work(context.WithoutCancel(ctx))
	})
	select {
	case result := <-done:
		if p := (*panicError)(nil); errors.As(result.Err, &p) {
			panic(p)
		}
		value, _ := result.Val.(T)
		return value, result.Err
	case <-ctx.Done():
		var zero T
		return zero, context.Cause(ctx)
	}
}

// panicError carries a panic from the goroutine of a run to its callers.
type panicError struct {
	value any
	stack []byte
}

func (p *panicError) Error() string { return fmt.Sprintf("%v\n\n%s", p.value, p.stack) }
