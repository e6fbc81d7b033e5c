package ratelimit

import (
	"context"
	"errors"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

// TestQueue checks that permissions go to the waiter with the most uses, or to the first of
// several, and not to those that have left.
func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q Queue
		done, err := q.Take(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		var order []float64
		leaving, leave := context.WithCancel(t.Context())
		for _, w := range []struct {
			ctx  context.Context
			uses float64
		}{{t.Context(), 1}, {leaving, 9}, {t.Context(), 5}, {t.Context(), 5.5}, {t.Context(), 1.5}} {
			go func() {
				done, err := q.Take(w.ctx, w.uses)
				if err != nil {
					if !errors.Is(err, context.Canceled) {
						t.Errorf("got %v, want that the waiter has left", err)
					}
					return
				}
				order = append(order, w.uses) // one has the permission at a time
				done()
			}()
			synctest.Wait()
		}
		leave()
		synctest.Wait()
		if got := q.Len(); got != 4 {
			t.Errorf("got %d waiters, want 4", got)
		}
		done()
		synctest.Wait()
		if len(order) != 4 || order[0] != 5.5 || order[1] != 5 || order[2] != 1.5 || order[3] != 1 {
			t.Errorf("got the order %v, want 5.5, 5, 1.5 and 1", order)
		}
		if done, err = q.Take(t.Context(), 0); err != nil {
			t.Errorf("got %v, want the permission, which nobody has", err)
		}
		done()
	})
}

// TestQueueBounds checks that the number of waiters is bounded, and that they wait no longer
// than they may. Neither is a failure of the registry.
func TestQueueBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q Queue
		done, err := q.Take(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		results := make(chan error, maxWaiting)
		for range maxWaiting {
			go func() {
				_, err := q.Take(ctx, 1)
				results <- err
			}()
		}
		synctest.Wait()
		if _, err := q.Take(ctx, 100); !errors.Is(err, ErrNoPull) {
			t.Errorf("got %v while too many wait, want %v", err, ErrNoPull)
		}
		time.Sleep(time.Minute)
		for range maxWaiting {
			if err := <-results; !errors.Is(err, ErrNoPull) {
				t.Fatalf("got %v after a minute, want %v", err, ErrNoPull)
			}
		}
		if done(); q.Len() != 0 || q.taken {
			t.Errorf("got %d waiters, want none", q.Len())
		}
	})
}

// TestQueueLeaving checks that a permission is passed on if the waiter that gets it leaves at
// the same moment.
func TestQueueLeaving(t *testing.T) {
	for range 100 {
		var q Queue
		done, err := q.Take(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		ctx, leave := context.WithCancel(t.Context())
		left := make(chan struct{})
		go func() {
			defer close(left)
			if done, err := q.Take(ctx, 1); err == nil {
				done()
			}
		}()
		for q.Len() == 0 {
			runtime.Gosched()
		}
		leave()
		done()
		<-left
		if q.taken || q.Len() != 0 {
			t.Fatalf("got a permission that nobody has given back, or %d waiters, want none", q.Len())
		}
	}
}
