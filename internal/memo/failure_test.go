package memo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestCacheGetPanics checks that the panic of a question reaches its callers and
// does not end the process, and that the key can be asked about again.
func TestCacheGetPanics(t *testing.T) {
	c := New(Config[int]{Size: 1, Fresh: time.Minute, Timeout: time.Minute})
	caught := func() (value any) {
		defer func() { value = recover() }()
		_, _ = c.Get(t.Context(), "key", func(context.Context) (int, error) { panic("a bug") })
		return nil
	}()
	if caught == nil || !strings.Contains(fmt.Sprint(caught), "a bug") {
		t.Errorf("got the panic %v, want that of the question", caught)
	}
	if v, err := c.Get(t.Context(), "key", func(context.Context) (int, error) { return 7, nil }); v != 7 || err != nil {
		t.Errorf("after the panic: got %d, %v, want 7", v, err)
	}
}

// TestCacheGetWaitsAfterPause checks that by default a caller waits for the service
// once the pause is over: what was taken back meanwhile does not serve again.
func TestCacheGetWaitsAfterPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := newTestCache(), &fakeService{value: "member"}
		get := func() (string, error) { return c.Get(t.Context(), "alice", s.ask) }
		if v, err := get(); v != "member" || err != nil {
			t.Fatalf("got %q, %v, want member", v, err)
		}
		time.Sleep(time.Minute)
		s.err = away{pause: time.Second}
		if v, err := get(); v != "member" || err != nil {
			t.Errorf("while the service is away: got %q, %v, want member", v, err)
		}
		time.Sleep(time.Second)
		s.err = fs.ErrNotExist
		if v, err := get(); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("after the pause: got %q, %v, want the refusal", v, err)
		}
	})
}
