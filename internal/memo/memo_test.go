package memo

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// fakeService answers questions, and counts them.
type fakeService struct {
	asked atomic.Int32
	value string
	err   error
	takes time.Duration
}

func (s *fakeService) ask(context.Context) (string, error) {
	s.asked.Add(1)
	time.Sleep(s.takes)
	return s.value, s.err
}

// expect asks a cache and checks the answer, and how many questions that caused.
func (s *fakeService) expect(t *testing.T, c *Cache[string], want string, wantErr error, questions int32) {
	t.Helper()
	s.expectKey(t, c, "key", want, wantErr, questions)
}

func (s *fakeService) expectKey(t *testing.T, c *Cache[string], key, want string, wantErr error, questions int32) {
	t.Helper()
	s.asked.Store(0)
	got, err := c.Get(t.Context(), key, s.ask)
	synctest.Wait() // for questions that no caller waits for
	if n := s.asked.Load(); got != want || !errors.Is(err, wantErr) || (err == nil) != (wantErr == nil) || n != questions {
		t.Errorf("got %q, %v after %d questions, want %q, %v after %d", got, err, n, want, wantErr, questions)
	}
}

// away is a failure with a pause.
type away struct {
	pause time.Duration
	all   bool
}

func (a away) Error() string { return "the service is away" }

func judge(err error) (Verdict, time.Duration) {
	var failure away
	switch {
	case errors.As(err, &failure) && failure.all:
		return AllFailed, failure.pause
	case errors.As(err, &failure):
		return Failed, failure.pause
	case errors.Is(err, fs.ErrInvalid):
		return Refused, 0
	}
	return Refused, 20 * time.Second
}

func newTestCache() *Cache[string] {
	return New(Config[string]{Size: 10, Fresh: 30 * time.Second, Stale: 10 * time.Minute, Timeout: time.Minute, Judge: judge})
}

// TestCacheGetAges: an answer is used for its time, a refusal for its own, and
// longer only while the service fails.
func TestCacheGetAges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := newTestCache(), &fakeService{value: "member"}
		s.expect(t, c, "member", nil, 1)
		time.Sleep(30*time.Second - 1)
		s.value, s.err = "", fs.ErrNotExist
		s.expect(t, c, "member", nil, 0)
		time.Sleep(time.Nanosecond)
		s.expect(t, c, "", fs.ErrNotExist, 1)
		time.Sleep(20*time.Second - 1)
		s.value, s.err = "member", nil
		s.expect(t, c, "", fs.ErrNotExist, 0)
		time.Sleep(time.Nanosecond)
		s.expect(t, c, "member", nil, 1)
		start := time.Now()

		s.value, s.err = "", away{10 * time.Second, true}
		time.Sleep(30 * time.Second)
		s.expect(t, c, "member", nil, 1)
		s.expect(t, c, "member", nil, 0) // the pause
		time.Sleep(10 * time.Second)
		s.expect(t, c, "member", nil, 1)
		s.expectKey(t, c, "other", "", s.err, 0)
		time.Sleep(time.Until(start.Add(10*time.Minute - 1)))
		s.expect(t, c, "member", nil, 1)
		time.Sleep(time.Nanosecond)
		s.expect(t, c, "", s.err, 0)
		time.Sleep(10 * time.Second)
		s.value, s.err = "back", nil
		s.expect(t, c, "back", nil, 1)
	})
}

// TestCacheGetWaits: which callers wait for the service, and how long, as it fails
// and comes back.
func TestCacheGetWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const takes = 5 * time.Second
		c, s := newTestCache(), &fakeService{value: "alice", takes: takes}
		c.config.Unwaited = 10 * time.Second
		step := func(after time.Duration, wantErr error, wantTook time.Duration, wantAsked int32) {
			t.Helper()
			time.Sleep(after)
			begin, before := time.Now(), s.asked.Load()
			var all sync.WaitGroup
			for range 5 {
				all.Go(func() {
					if _, err := c.Get(t.Context(), "alice", s.ask); !errors.Is(err, wantErr) {
						t.Errorf("got %v, want %v", err, wantErr)
					}
				})
			}
			all.Wait()
			if took := time.Since(begin); took != wantTook {
				t.Errorf("took %v, want %v", took, wantTook)
			}
			synctest.Wait()
			if n := s.asked.Load() - before; n != wantAsked {
				t.Errorf("asked %d times, want %d", n, wantAsked)
			}
		}
		failure := away{pause: time.Second}
		step(0, nil, takes, 1)
		step(24*time.Second, nil, 0, 0)
		step(2*time.Second, nil, takes, 1)
		s.err = failure
		step(26*time.Second, nil, takes, 1)            // the first caller waits
		step(0, nil, 0, 0)                             // and the next does not
		step(2*time.Second, nil, 0, 1)                 // though the service is asked
		step(20*time.Second, nil, takes, 1)            // a late caller waits again
		step(10*time.Minute, failure, takes, 1)        // the answer is stale
		s.err = nil                                    // the service is back
		step(0, nil, takes, 1)                         // and is asked at once
		s.err = fs.ErrNotExist                         // the account is gone
		step(26*time.Second, fs.ErrNotExist, takes, 1) // and so is its answer
		step(10*time.Second, fs.ErrNotExist, 0, 0)
		s.err = failure
		step(21*time.Second, fs.ErrNotExist, takes, 1) // a refusal still stands too
	})
}

// TestCachePause: the pause is that of the judge, for one key or for all, and a
// failure without an answer stops only the others if it is that of all keys.
func TestCachePause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := newTestCache(), &fakeService{err: away{time.Second, true}}
		s.expect(t, c, "", s.err, 1)
		time.Sleep(time.Second - 1)
		s.expectKey(t, c, "other", "", s.err, 0)
		time.Sleep(time.Nanosecond)
		s.expectKey(t, c, "other", "", s.err, 1)

		time.Sleep(time.Minute)
		s.err = away{pause: time.Hour}
		s.expect(t, c, "", s.err, 1)
		s.expect(t, c, "", s.err, 1) // there is no answer to fall back on
		s.value, s.err = "yes", nil
		s.expect(t, c, "yes", nil, 1)
		s.expectKey(t, c, "other", "yes", nil, 1)
		time.Sleep(time.Minute)
		s.err = away{pause: time.Minute}
		s.expect(t, c, "yes", nil, 1)
		s.expect(t, c, "yes", nil, 0)
		s.err = nil
		s.expectKey(t, c, "other", "yes", nil, 1)
	})
}

// TestCacheSharesQuestions: concurrent callers share one question, which goes on
// if one of them leaves, and ends after the timeout.
func TestCacheSharesQuestions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := newTestCache(), &fakeService{value: "yes", takes: time.Second}
		ctx, leave := context.WithTimeout(t.Context(), time.Millisecond)
		defer leave()
		if _, err := c.Get(ctx, "key", s.ask); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("a caller that has left got %v, want its context's error", err)
		}
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				if value, err := c.Get(t.Context(), "key", s.ask); value != "yes" || err != nil {
					t.Errorf("got %q, %v, want yes", value, err)
				}
			})
		}
		all.Wait()
		if n := s.asked.Load(); n != 1 {
			t.Errorf("asked %d times, want 1", n)
		}
		begin := time.Now()
		_, err := c.Get(t.Context(), "hangs", func(ctx context.Context) (string, error) {
			<-ctx.Done()
			return "", away{}
		})
		if took := time.Since(begin); took != time.Minute || !errors.Is(err, away{}) {
			t.Errorf("got %v after %v, want a failure after the timeout of a minute", err, took)
		}
	})
}

// TestCacheNewer: Newer does not accept an answer that is too old, even if there
// is none that is newer.
func TestCacheNewer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, s := newTestCache(), &fakeService{value: "one"}
		newer := func(want string, wantErr error) {
			t.Helper()
			if got, err := c.Newer(t.Context(), "key", 10*time.Second, s.ask); got != want || !errors.Is(err, wantErr) {
				t.Errorf("got %q, %v, want %q, %v", got, err, want, wantErr)
			}
		}
		s.expect(t, c, "one", nil, 1)
		s.value = "two"
		time.Sleep(10*time.Second - 1)
		s.expect(t, c, "one", nil, 0)
		newer("one", nil)
		time.Sleep(time.Nanosecond)
		s.expect(t, c, "one", nil, 0)
		newer("two", nil)
		s.expect(t, c, "two", nil, 0)
		s.err = away{time.Second, true}
		time.Sleep(10 * time.Second)
		newer("", s.err)
		s.expect(t, c, "two", nil, 0)
		time.Sleep(20 * time.Second)
		s.expect(t, c, "two", nil, 1) // in vain
	})
}

// TestCachePeek: what was learned without a question is fresh for its time, and is
// found after that too.
func TestCachePeek(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newTestCache()
		if _, ok := c.Peek("key"); ok {
			t.Error("an empty cache has an answer")
		}
		c.Set("key", "yes")
		for _, step := range []struct {
			after time.Duration
			fresh bool
		}{{30*time.Second - 1, true}, {1, false}, {time.Hour, false}} {
			time.Sleep(step.after)
			if a, ok := c.Peek("key"); !ok || a.Value != "yes" || a.IsFresh() != step.fresh {
				t.Errorf("%v later: got %+v, known %v, want yes, fresh %v", step.after, a, ok, step.fresh)
			}
		}
	})
}
