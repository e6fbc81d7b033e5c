package pullthrough

import (
	"context"
	"errors"
	"sync"
	"testing"
)

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
				t.Errorf("waiting for a turn: got %v, want %v", err, ErrTooManyQuestions)
			}
		})
	}
	eventually(t, "all questions wait", func() bool {
		q.mu.Lock()
		defer q.mu.Unlock()
		return q.queues[red].asked == maxQuestions+maxWaiting
	})
	if _, err := q.take(t.Context(), red); !errors.Is(err, ErrTooManyQuestions) {
		t.Errorf("one question too many: got %v, want %v", err, ErrTooManyQuestions)
	}
	take(blue)
	cancel()
	waiting.Wait()
	for _, done := range turns {
		done()
	}
	if len(q.queues) != 0 {
		t.Errorf("got %d queues after the last question, want none", len(q.queues))
	}
}
