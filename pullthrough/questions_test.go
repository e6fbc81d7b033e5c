package pullthrough

import (
	"context"
	"errors"
	"sync"
	"testing"
)

// TestQuestionsTakeTurns: turns are given back, and who cannot even wait for one is
// told so.
func TestQuestionsTakeTurns(t *testing.T) {
	var q Questions
	red, blue := queueKey{"hub", "red"}, queueKey{"hub", "blue"}
	var turns []func()
	take := func(key queueKey) {
		t.Helper()
		done, err := q.take(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		turns = append(turns, done)
	}
	for range maxQuestions {
		take(red)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var waiting sync.WaitGroup
	for range maxWaiting {
		waiting.Go(func() {
			if _, err := q.take(ctx, red); !errors.Is(err, ErrTooManyQuestions) {
				t.Errorf("a turn that nobody has given back: %v", err)
			}
		})
	}
	eventually(t, "all wait", func() bool {
		q.mu.Lock()
		defer q.mu.Unlock()
		return q.queues[red].asked == maxQuestions+maxWaiting
	})
	if _, err := q.take(t.Context(), red); !errors.Is(err, ErrTooManyQuestions) {
		t.Errorf("one too many: %v", err)
	}
	take(blue)
	cancel()
	waiting.Wait()
	for _, done := range turns {
		done()
	}
	if len(q.queues) != 0 {
		t.Errorf("%d queues are left", len(q.queues))
	}
}
