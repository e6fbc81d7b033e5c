package bucket

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// failing returns the health of a bucket that fails many requests at the same time.
func failing() *health {
	h := newHealth(Config{}.withDefaults().waits, func(error) {})
	for range 12 {
		h.note(context.Background(), errors.New("connection refused"))
	}
	return h
}

// TestHealthCountsOutages checks that the pause after an outage does not depend on the
// number of requests that failed in it, and grows with each further failure.
func TestHealthCountsOutages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := failing()
		for _, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
			began := time.Now()
			if !h.wait(t.Context()) {
				t.Fatal("wait reports an end")
			}
			if took := time.Since(began); took != want*time.Second {
				t.Errorf("waited %v, want %v", took, want*time.Second)
			}
			for range 3 { // the one that was allowed, and two that began before
				h.note(t.Context(), errors.New("connection refused"))
			}
		}
	})
}

// TestHealthWakesAll checks that all that wait go on when one of them has succeeded.
func TestHealthWakesAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := failing()
		began := time.Now()
		done := make(chan time.Duration, 12)
		for range cap(done) {
			go func() {
				if !h.wait(t.Context()) {
					t.Error("wait reports an end")
				}
				h.note(t.Context(), nil)
				done <- time.Since(began)
			}()
		}
		for range cap(done) {
			if took := <-done; took != time.Second {
				t.Errorf("one went on after %v, want %v", took, time.Second)
			}
		}
	})
}

// TestHealthWaitEnds checks that wait ends with its context.
func TestHealthWaitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if failing().wait(ctx) {
			t.Error("wait reports that the bucket may be asked")
		}
	})
}
