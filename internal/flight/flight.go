// Package flight runs work that several callers wait for once, by
// golang.org/x/sync/singleflight.
//
// A run does not end with the caller that started it, and a caller that leaves
// does not fail the others. If the work panics, the callers that wait for it
// panic: singleflight would end the process, although a panic of a guest module
// should fail one request.
package flight

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"golang.org/x/sync/singleflight"
)

// Start runs work in a goroutine, or joins the run with the same key. The result
// is to be read with [Value]. The context given to work has the values of ctx and
// no deadline, so work must limit what it does.
func Start[T any](ctx context.Context, group *singleflight.Group, key string, work func(context.Context) (T, error)) <-chan singleflight.Result {
	return group.DoChan(key, func() (value any, err error) {
		defer func() {
			switch v := recover().(type) {
			case nil:
			case *panicError: // of a nested run
				err = v
			default:
				err = &panicError{value: v, stack: debug.Stack()}
			}
		}()
		return work(context.WithoutCancel(ctx))
	})
}

// Value returns what the work of a run returned. It panics if the work did.
func Value[T any](result singleflight.Result) (T, error) {
	if p := (*panicError)(nil); errors.As(result.Err, &p) {
		panic(p)
	}
	value, _ := result.Val.(T)
	return value, result.Err
}

// Do starts a run, or joins one, and returns its value, or the cause of ctx if
// that ends first.
func Do[T any](ctx context.Context, group *singleflight.Group, key string, work func(context.Context) (T, error)) (T, error) {
	select {
	case result := <-Start(ctx, group, key, work):
		return Value[T](result)
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
