package circuit

import (
	"errors"
	"testing"
	"time"
)

// TestBreakerSlowButLiving checks that requests that time out do not count while others
// are answered.
func TestBreakerSlowButLiving(t *testing.T) {
	var b Breaker
	late := &Failure{Err: errors.New("timeout"), Outage: true, Repository: "a"}
	other := &Failure{Err: errors.New("timeout"), Outage: true, Repository: "b"}
	now := time.Now()
	for range 10 {
		first, second, third := b.Force(), b.Force(), b.Force()
		b.Answered(b.Force()) // a request that was sent later
		for i, turn := range []Turn{first, second, third} {
			b.Failed(turn, []*Failure{late, other, late}[i], now, false)
		}
	}
	if since := b.State().DownSince; !since.IsZero() {
		t.Errorf("got that the address is down since %v, although each third request is answered", since)
	}
}

// TestBreakerHeld checks what a request that is not sent learns.
func TestBreakerHeld(t *testing.T) {
	var b Breaker
	now := time.Now()
	for _, repository := range []string{"a", "b", "a"} {
		turn, held := b.Take(now)
		if held != nil {
			t.Fatalf("got %+v, want that the address is asked", held)
		}
		b.Failed(turn, &Failure{Err: errors.New("refused"), Outage: true, Repository: repository}, now, false)
	}
	if _, held := b.Take(now); held == nil || !held.IsDown || held.OnTrial || held.Left != minPause || held.Err.Error() != "refused" {
		t.Errorf("during the pause: got %+v, want that the address is down for %v", held, minPause)
	}
	now = now.Add(minPause)
	turn, held := b.Take(now)
	if held != nil || !turn.Check {
		t.Errorf("after the pause: got %+v and %+v, want a trial by the version check", turn, held)
	}
	if _, held := b.Take(now); held == nil || !held.OnTrial || held.Left != MaxTrial {
		t.Errorf("during the trial: got %+v, want that it may take %v", held, MaxTrial)
	}
	if !b.Answered(turn) {
		t.Error("after the trial: got that the address was up, want that it was down")
	}
	if _, held := b.Take(now); held != nil {
		t.Errorf("after an answer: got %+v, want that the address is asked", held)
	}
}

// TestBreakerPauses checks that pauses double from 1 s to 1 min, less up to a fifth at
// random, and that Retry-After makes them longer, up to 10 min.
func TestBreakerPauses(t *testing.T) {
	now := time.Now()
	lengths := make(map[time.Duration]bool)
	for range 20 {
		var b Breaker
		for _, length := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
			length *= time.Second
			got := b.Failed(b.Force(), &Failure{Limited: true}, now, false).Pause
			if got > length || got < max(length*4/5, minPause) {
				t.Errorf("got a pause of %v, want %v or up to a fifth less", got, length)
			}
			lengths[got] = true
			now = b.Ends()
		}
		for asked, want := range map[time.Duration]time.Duration{2 * time.Minute: 2 * time.Minute, time.Hour: MaxHold} {
			if got := b.Failed(b.Force(), &Failure{Limited: true, RetryAfter: asked}, now, false).Pause; got != want {
				t.Errorf("Retry-After %v: got a pause of %v, want %v", asked, got, want)
			}
			now = b.Ends()
		}
	}
	if len(lengths) < 100 {
		t.Errorf("got %d different lengths of 160 pauses, want random ones", len(lengths))
	}
}
