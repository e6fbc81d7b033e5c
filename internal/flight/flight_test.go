package flight_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/sync/singleflight"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/flight"
)

// TestDo checks that concurrent calls share one run, that a call returns when
// its context ends, even that of the first caller, and that the run continues.
func TestDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var group singleflight.Group
		runs, release := 0, make(chan struct{})
		do := func(ctx context.Context) (int, error) {
			return flight.Do(ctx, &group, "key", func(ctx context.Context) (int, error) {
				runs++
				<-release
				return 7, ctx.Err()
			})
		}
		first, leave := context.WithCancelCause(t.Context())
		results := make(chan error)
		go func() {
			_, err := do(first)
			results <- err
		}()
		synctest.Wait()
		go func() {
			got, err := do(t.Context())
			if got != 7 {
				t.Errorf("got %d, want 7", got)
			}
			results <- err
		}()
		synctest.Wait()
		left := errors.New("the client left")
		leave(left)
		if err := <-results; !errors.Is(err, left) {
			t.Errorf("got error %v, want that the client left", err)
		}
		close(release)
		if err := <-results; err != nil {
			t.Errorf("got error %v, want none", err)
		}
		if runs != 1 {
			t.Errorf("got %d runs, want 1", runs)
		}
	})
}

// TestDoPanics checks that a panic of the work reaches the caller with its stack,
// and that the key can be used again.
func TestDoPanics(t *testing.T) {
	var group singleflight.Group
	defer func() {
		if err, ok := recover().(error); !ok || !strings.Contains(err.Error(), "storage") || !strings.Contains(err.Error(), "flight_test.go") {
			t.Errorf("got panic %v, want that of the run with its stack", err)
		}
		if got, err := flight.Do(t.Context(), &group, "key", func(context.Context) (int, error) { return 7, nil }); got != 7 || err != nil {
			t.Errorf("got %d, error %v after a panic, want 7", got, err)
		}
	}()
	_, err := flight.Do(t.Context(), &group, "key", func(context.Context) (int, error) { panic("storage") })
	t.Errorf("got error %v, want a panic", err)
}
