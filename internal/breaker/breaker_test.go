package breaker

import (
	"errors"
	"io"
	"testing"
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
