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
		t.Errorf("the address is down since %v, want it up, since one of four requests is answered", since)
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
		for asked, want := range map[time.Duration]time.Duration{2 * time.Minute: 2 * time.Minute, time.Hour: maxHold} {
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

// fail reports failures of an outage for repositories, one after another, each after the
// pause or the trial before it. It returns the time after the last one.
func fail(t *testing.T, b *Breaker, now time.Time, repositories ...string) time.Time {
	t.Helper()
	for _, repository := range repositories {
		if until := b.Ends(); until.After(now) {
			now = until
		}
		turn, held := b.Take(now)
		if held != nil {
			t.Fatalf("got %+v, want that the address is asked", held)
		}
		b.Failed(turn, &Failure{Outage: true, Repository: repository}, now, false)
	}
	return now
}

// TestBreakerDown checks which failures mean that an address is down.
func TestBreakerDown(t *testing.T) {
	for _, test := range []struct {
		before, after []string // repositories of failures before and after an answer
		want          bool
	}{
		{nil, []string{"a", "b"}, false},
		{nil, []string{"a", "b", "a"}, true},
		{nil, []string{"a", "a", "a", "a"}, false},
		{nil, []string{"a", "a", "a", ""}, true},
		{nil, []string{"", "", ""}, true},
		{[]string{"a", "b"}, []string{"a"}, false},
		{[]string{"a", "b"}, []string{"a", "a", "a"}, false},
	} {
		var b Breaker
		now := fail(t, &b, time.Now(), test.before...)
		if len(test.before) > 0 {
			b.Answered(b.Force())
		}
		now = fail(t, &b, now, test.after...)
		since := b.State().DownSince
		if fail(t, &b, now, "a"); test.want && b.State().DownSince != since {
			t.Errorf("after another failure: got that the address is down since %v, want %v", b.State().DownSince, since)
		}
		if got := !since.IsZero(); got != test.want {
			t.Errorf("failures of %q, and of %q after an answer: got that the address is down: %t, want %t", test.before, test.after, got, test.want)
		}
	}
}

// TestBreakerLateTrial checks that a trial that ends after another one has failed changes
// nothing, and that the next one begins with the version check again.
func TestBreakerLateTrial(t *testing.T) {
	for name, end := range map[string]func(*Breaker, Turn, time.Time){
		"returned": func(b *Breaker, turn Turn, now time.Time) { b.Returned(turn, now) },
		"proved":   func(b *Breaker, turn Turn, now time.Time) { b.Proved(turn, now) },
		"failed": func(b *Breaker, turn Turn, now time.Time) {
			if got := b.Failed(turn, &Failure{Outage: true}, now, false); got.Pause != 0 {
				t.Errorf("failed: got another pause of %v, want none", got.Pause)
			}
		},
	} {
		var b Breaker
		fail(t, &b, time.Now(), "a", "b", "a")
		now := b.Ends()
		late, held := b.Take(now)
		if held != nil {
			t.Fatalf("%s: got %+v, want a trial", name, held)
		}
		b.Proved(late, now)
		now = now.Add(MaxTrial)
		now = fail(t, &b, now, "a")
		until := b.Ends()
		end(&b, late, now)
		if got := b.Ends(); got != until {
			t.Errorf("%s: got a pause until %v, want %v", name, got, until)
		}
		if next, held := b.Take(until); held != nil || !next.Check {
			t.Errorf("%s: got %+v and %+v, want another trial with the version check", name, next, held)
		}
	}
}

// TestBreakerLateAnswer checks that an answer to a request from before a pause ends it,
// unless the address limits requests: it may do so since then.
func TestBreakerLateAnswer(t *testing.T) {
	for _, limited := range []bool{false, true} {
		var b Breaker
		now := time.Now()
		before := b.Force()
		b.Failed(b.Force(), &Failure{Limited: limited}, now, true)
		b.NoteSlow()
		if !b.IsSlow() {
			t.Error("got that the address is not slow, want that it is until an answer")
		}
		b.Answered(before)
		if _, held := b.Take(now); (held != nil) != limited || b.IsSlow() {
			t.Errorf("limited %t: got %+v and that the address is slow: %t, want a pause only if it limits requests, and that it is not slow", limited, held, b.IsSlow())
		}
	}
}
