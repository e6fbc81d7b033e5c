package upstream

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// maxPullWaiters is how many callers of AwaitPull wait at a time.
const maxPullWaiters = 1024

// ErrNoPull is the cause of an error of [Registry.HeadTag] that a GET might have avoided,
// and the error of [Mirrors.AwaitPull] if too many others wait, or for too long.
var ErrNoPull = errors.New("a GET would count as a pull, and few remain")

// Scarcity returns how scarce the budget of the first address is: [Budget.Scarcity].
func (m *Mirrors) Scarcity() float64 {
	r := m.registries[0]
	return r.budget.scarcity(r.now)
}

// AwaitPull waits for permission to spend a part of a scarce budget on an image that
// could be served as it is known. One caller has it at a time; the next one is that whose
// image is used most. The error is [ErrNoPull] if too many wait or the deadline of ctx has
// passed, or the cause of another end of ctx. The caller must call done when it has spent
// what it needs.
func (m *Mirrors) AwaitPull(ctx context.Context, uses float64) (done func(), err error) {
	return m.registries[0].queue.take(ctx, uses)
}

// pullQueue gives permission in the order of uses. The zero value is ready for use.
type pullQueue struct {
	mu      sync.Mutex
	taken   bool
	waiting []*pullWaiter
}

type pullWaiter struct {
	uses float64
	turn chan struct{} // closed when the waiter has the permission
}

func (q *pullQueue) take(ctx context.Context, uses float64) (done func(), err error) {
	q.mu.Lock()
	if !q.taken {
		q.taken = true
		q.mu.Unlock()
		return q.pass, nil
	}
	if len(q.waiting) == maxPullWaiters {
		q.mu.Unlock()
		return nil, ErrNoPull
	}
	w := &pullWaiter{uses, make(chan struct{})}
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
		return nil, fmt.Errorf("%w: others were used more all the time", ErrNoPull)
	}
	return nil, context.Cause(ctx)
}

func (q *pullQueue) length() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting)
}

// pass gives the permission to the waiter with the most uses, of equal ones to the first.
func (q *pullQueue) pass() {
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
