package pullthrough

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

const (
	// maxQuestions is how many questions about manifests, tags, lists and sizes
	// an endpoint is asked at a time for one group. Each takes a connection, for
	// as long as upstream likes, up to half a minute, even if its client has left.
	maxQuestions = 64

	// maxWaiting is how many more wait for their turn.
	maxWaiting = 1024

	// turnPatience is how long a question to peers or replicas waits for its turn. Then
	// upstream is asked, while there is time for that.
	turnPatience = 2 * time.Second
)

// ErrTooManyQuestions is the error of a request that would ask upstream a
// question while too many others of its group are in progress.
var ErrTooManyQuestions = errors.New("too many questions are in progress")

// Questions limits the questions that an endpoint is asked at a time for a group,
// not counting downloads of blobs: 64 run and 1024 more wait for their turn.
// Its zero value is ready for use.
type Questions struct {
	mu     sync.Mutex
	queues map[queueKey]*queue
	uses   uses
}

type queueKey struct{ endpoint, group string }

// queue is the queue of one group at one endpoint. It is deleted with its last
// question.
type queue struct {
	turns chan struct{}
	asked int // questions, including those that wait
}

// take waits for a turn until ctx ends. The caller must call done once upstream
// has answered.
func (q *Questions) take(ctx context.Context, key queueKey) (done func(), err error) {
	at, err := q.join(key)
	if err != nil {
		return nil, err
	}
	select {
	case at.turns <- struct{}{}:
		return func() {
			<-at.turns
			q.leave(key, at)
		}, nil
	case <-ctx.Done():
		q.leave(key, at)
		return nil, fmt.Errorf("%w: group %s had no turn in time", ErrTooManyQuestions, key.group)
	}
}

// takeSoon is take for a question to peers or replicas. It waits for turnPatience at most.
func (q *Questions) takeSoon(ctx context.Context, key queueKey) (done func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, turnPatience)
	defer cancel()
	return q.take(ctx, key)
}

func (q *Questions) join(key queueKey) (*queue, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	at := q.queues[key]
	if at == nil {
		if q.queues == nil {
			q.queues = make(map[queueKey]*queue)
		}
		at = &queue{turns: make(chan struct{}, maxQuestions)}
		q.queues[key] = at
	}
	if at.asked >= maxQuestions+maxWaiting {
		return nil, fmt.Errorf("%w: %d for group %s", ErrTooManyQuestions, at.asked, key.group)
	}
	at.asked++
	return at, nil
}

func (q *Questions) leave(key queueKey, at *queue) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if at.asked--; at.asked == 0 {
		delete(q.queues, key)
	}
}

// inTurn asks upstream a question when it is the turn of the repository's group.
func inTurn[T any](ctx context.Context, r *Repository, ask func() (T, error)) (T, error) {
	done, err := r.config.Questions.take(ctx, queueKey{r.config.Endpoint, r.config.Group})
	if err != nil {
		var none T
		return none, err
	}
	defer done()
	return ask()
}
