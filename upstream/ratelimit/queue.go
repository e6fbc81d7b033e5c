package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// maxWaiting is how many callers of Take wait at a time.
const maxWaiting = 1024

// ErrNoPull means that a request was not sent, because it would count as a pull and few
// pulls remain.
var ErrNoPull = errors.New("a GET would count as a pull, and few remain")

// Queue lets one caller at a time spend a part of a scarce budget. The next one is the
// caller whose image is used most. The zero value is ready for use. A Queue is safe for
// concurrent use.
type Queue struct {
	mu      sync.Mutex
	taken   bool
	waiting []*waiter
}

type waiter struct {
	uses float64
	turn chan struct{} // closed when the waiter has the permission
}

// Take waits for permission. Uses is how much the image is used. The error is [ErrNoPull]
// if too many callers wait or the deadline of ctx has passed; if ctx ends otherwise, it is
// the cause. The caller must call done when it has spent what it needs.
func (q *Queue) Take(ctx context.Context, uses float64) (done func(), err error) {
	q.mu.Lock()
	if !q.taken {
		q.taken = true
		q.mu.Unlock()
		return q.pass, nil
	}
	if len(q.waiting) == maxWaiting {
		q.mu.Unlock()
		return nil, ErrNoPull
	}
	w := &waiter{uses, make(chan struct{})}
	q.waiting = append(q.waiting, w)
	q.mu.Unlock()
	select {
	case <-w.turn:
		return q.pass, nil
	case <-ctx.Done():
	}
	q.mu.Lock()
	i := slices.Index(q.waiting, w)
	if i >= 0 {
		q.waiting = slices.Delete(q.waiting, i, i+1)
	}
	q.mu.Unlock()
	if i < 0 {
		q.pass() // the turn came meanwhile
	}
	if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		return nil, fmt.Errorf("%w: images that are used more were fetched first", ErrNoPull)
	}
	return nil, context.Cause(ctx)
}

// Len returns how many callers wait.
func (q *Queue) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting)
}

// pass gives the permission to the waiter with the most uses, or to the first of several.
func (q *Queue) pass() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		q.taken = false
		return
	}
	next := 0
	for i, w := range q.waiting {
		if w.uses > q.waiting[next].uses {
			next = i
		}
	}
	close(q.waiting[next].turn)
	q.waiting = slices.Delete(q.waiting, next, next+1)
}
