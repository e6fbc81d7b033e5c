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
	b := Breaker{NoJitter: true}
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
