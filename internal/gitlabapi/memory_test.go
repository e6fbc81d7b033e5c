package gitlabapi

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// oracle is asked questions, and counts them.
type oracle struct {
	asked atomic.Int32
	value string
	err   error
	takes time.Duration
}

func (o *oracle) ask(context.Context) (string, error) {
	o.asked.Add(1)
	time.Sleep(o.takes)
	return o.value, o.err
}

// expect asks a memory and checks the answer and how often that asked the oracle.
func (o *oracle) expect(t *testing.T, m *Memory, want string, err error, asked int32) {
	t.Helper()
	o.asked.Store(0)
	got, e := Ask(t.Context(), m, "kind", "key", o.ask)
	if got != want || !errors.Is(e, err) || (e == nil) != (err == nil) || o.asked.Load() != asked {
		t.Errorf("%q, %v after %d questions instead of %q, %v after %d", got, e, o.asked.Load(), want, err, asked)
	}
}

// TestMemory: an answer holds for its time, a definite no as well, and longer only
// while GitLab is away.
func TestMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(30*time.Second, 10*time.Minute)
		o := &oracle{value: "member"}
		away := &Trouble{What: "it", Away: true, Err: errors.New("status 503")}
		o.expect(t, m, "member", nil, 1)
		time.Sleep(30*time.Second - 1)
		o.value, o.err = "", fs.ErrNotExist
		o.expect(t, m, "member", nil, 0)
		time.Sleep(time.Nanosecond)
		o.expect(t, m, "", fs.ErrNotExist, 1)
		time.Sleep(30*time.Second - 1)
		o.value, o.err = "member", nil
		o.expect(t, m, "", fs.ErrNotExist, 0)
		time.Sleep(time.Nanosecond)
		o.expect(t, m, "member", nil, 1)
		start := time.Now()

		o.value, o.err = "", away
		time.Sleep(30 * time.Second)
		o.expect(t, m, "member", nil, 1)
		o.expect(t, m, "member", nil, 0) // left alone for 10 s
		time.Sleep(10 * time.Second)
		o.expect(t, m, "member", nil, 1)
		if _, err := Ask(t.Context(), m, "kind", "other", o.ask); !errors.Is(err, away) {
			t.Error(err)
		}
		time.Sleep(time.Until(start.Add(10*time.Minute - 1)))
		o.expect(t, m, "member", nil, 1)
		time.Sleep(time.Nanosecond)
		o.expect(t, m, "", away, 0)
		time.Sleep(10 * time.Second)
		o.value, o.err = "back", nil
		o.expect(t, m, "back", nil, 1)
	})
}

// TestBackOff: GitLab is left alone for as long as it says, within bounds, and not
// for trouble that says nothing about other questions.
func TestBackOff(t *testing.T) {
	for said, want := range map[time.Duration]time.Duration{0: 10 * time.Second, time.Second: time.Second, 40 * time.Second: 40 * time.Second, time.Hour: time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			m := NewMemory(30*time.Second, 10*time.Minute)
			o := &oracle{err: &Trouble{What: "it", Away: true, RetryAfter: said, Err: errors.New("its rate limit is reached")}}
			o.expect(t, m, "", o.err, 1)
			time.Sleep(want - 1)
			o.expect(t, m, "", o.err, 0)
			if value, err := Ask(t.Context(), m, "another kind", "key", (&oracle{value: "yes"}).ask); value != "yes" || err != nil {
				t.Error(value, err)
			}
			time.Sleep(time.Nanosecond)
			o.expect(t, m, "", o.err, 1)
		})
	}
	m := NewMemory(time.Hour, time.Hour)
	o := &oracle{err: &Trouble{What: "it", Err: errors.New("status 400")}}
	o.expect(t, m, "", o.err, 1)
	o.expect(t, m, "", o.err, 1)
}

// TestTogether: concurrent questions are one, and who leaves does not end it.
func TestTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(time.Minute, time.Minute)
		o := &oracle{value: "yes", takes: time.Second}
		ctx, leave := context.WithTimeout(t.Context(), time.Millisecond)
		defer leave()
		if _, err := Ask(ctx, m, "kind", "key", o.ask); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				if value, err := Ask(t.Context(), m, "kind", "key", o.ask); value != "yes" || err != nil {
					t.Error(value, err)
				}
			})
		}
		all.Wait()
		if n := o.asked.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}
	})
}

// TestBounds: neither kind of answer grows without end, and a flood of one does
// not drive out the other.
func TestBounds(t *testing.T) {
	m := NewMemory(time.Hour, time.Hour)
	yes, no := &oracle{value: "yes"}, &oracle{err: fs.ErrNotExist}
	yes.expect(t, m, "yes", nil, 1)
	for i := range 2 * capacity {
		if _, err := Ask(t.Context(), m, "kind", fmt.Sprint("none", i), no.ask); !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
	}
	if n := m.no.Len(); n != capacity {
		t.Errorf("%d negative answers are kept", n)
	}
	yes.expect(t, m, "yes", nil, 0)
	if !m.Knows("kind", "key") || !m.Knows("kind", fmt.Sprint("none", 2*capacity-1)) || m.Knows("kind", "none0") {
		t.Error("it does not know what it knows")
	}
}
