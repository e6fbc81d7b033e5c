package breaker

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestPausesGrow checks that a server that keeps failing is asked by one caller after
// pauses that double, up to the longest one, and by all after a success.
func TestPausesGrow(t *testing.T) {
	now := time.Unix(1e9, 0)
	b := Breaker{Pause: time.Second, MaxPause: 5 * time.Second, Now: func() time.Time { return now }}
	if b.Open() || b.Allow() != nil || b.State() != (State{}) {
		t.Fatal("got a new breaker open, want it closed")
	}
	began := now
	for i, pause := range []time.Duration{1, 2, 4, 5, 5} {
		if first := b.Fail(io.ErrUnexpectedEOF); first != (i == 0) {
			t.Errorf("failure %d: got first %v", i+1, first)
		}
		if b.Fail(io.EOF) || b.State().Failures != i+1 {
			t.Errorf("failure %d: got %d after another one of a request that was under way, want it ignored", i+1, b.State().Failures)
		}
		now = now.Add(pause*time.Second - 1)
		if err := b.Allow(); !b.Open() || !errors.Is(err, ErrOpen) || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("failure %d: got %v before %ds are over, want ErrOpen with the cause", i+1, err, pause)
		}
		now = now.Add(1)
		if err := b.Allow(); err != nil {
			t.Errorf("failure %d: got %v after %ds, want nil", i+1, err, pause)
		}
		if err := b.Allow(); !errors.Is(err, ErrOpen) {
			t.Errorf("failure %d: got %v for a second caller, want ErrOpen", i+1, err)
		}
	}
	if got := b.State(); got.Since != began || !errors.Is(got.Err, io.ErrUnexpectedEOF) || !got.Until.After(now) {
		t.Errorf("got state %+v, want a failure since %v", got, began)
	}
	if !b.Succeed() || b.Succeed() || b.Open() || b.Allow() != nil || b.State() != (State{}) {
		t.Error("got a breaker open after a success, want it closed")
	}
	if !b.Fail(io.EOF) {
		t.Error("got a later failure after a success, want the first one")
	}
}

// TestBriefFailuresDoNotGrow checks the pauses after failures that may concern some
// requests only.
func TestBriefFailuresDoNotGrow(t *testing.T) {
	now := time.Unix(1e9, 0)
	b := Breaker{Pause: time.Second, MaxPause: time.Minute, Now: func() time.Time { return now }}
	for i := range 5 {
		if first := b.FailBriefly(io.EOF); first != (i == 0) || b.State().Until != now.Add(time.Second) {
			t.Errorf("failure %d: got first %v, state %+v, want a pause of 1s", i+1, first, b.State())
		}
		now = now.Add(time.Second)
		if err := b.Allow(); err != nil {
			t.Fatal(err)
		}
	}
}

// wait waits until the server may be asked. It reports false if ctx ends first.
func wait(ctx context.Context, b *Breaker, wake <-chan struct{}) bool {
	for b.Allow() != nil && ctx.Err() == nil {
		b.Sleep(ctx, wake)
	}
	return ctx.Err() == nil
}

// TestSleep checks that waiting callers are let through one by one after pauses, and all
// at once after a success, and that they end with their contexts.
func TestSleep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := Breaker{Pause: time.Second, MaxPause: time.Minute}
		if !wait(t.Context(), &b, nil) {
			t.Error("got false from a breaker that is closed, want true")
		}
		b.Fail(io.EOF)
		began := time.Now()
		var first, rest atomic.Int64
		for range 10 {
			go func() {
				if wait(t.Context(), &b, nil) {
					if first.Add(1) == 1 {
						time.Sleep(time.Second / 2)
						b.Succeed()
						return
					}
					rest.Store(int64(time.Since(began)))
				}
			}()
		}
		time.Sleep(time.Second + time.Millisecond)
		if first.Load() != 1 {
			t.Errorf("got %d callers after the pause, want one", first.Load())
		}
		time.Sleep(time.Second / 2)
		if synctest.Wait(); first.Load() != 10 || time.Duration(rest.Load()) != time.Second*3/2 {
			t.Errorf("got %d callers, the last after %v, want all at the success after 1.5s", first.Load(), time.Duration(rest.Load()))
		}
		b.Fail(io.EOF)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		if wait(ctx, &b, nil) {
			t.Error("got true after the end of the context, want false")
		}
		wake := make(chan struct{}, 1)
		wake <- struct{}{}
		woken := time.Now()
		if b.Sleep(t.Context(), wake); time.Since(woken) != 0 {
			t.Errorf("slept for %v, want 0, since it was woken", time.Since(woken))
		}
	})
}
