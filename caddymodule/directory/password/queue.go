package password

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"time"
)

const (
	// MaxWaiting is the number of logins from unknown addresses that may wait for a
	// turn, and the number of others.
	MaxWaiting = 256

	// Patience is the longest time that a login waits for a turn.
	Patience = 10 * time.Second
)

// ErrBusy means that a password was not compared because too many logins are waiting,
// or because it had to wait too long.
var ErrBusy = errors.New("too many passwords are being checked")

// DefaultQueue is the queue of this process. It uses half of the cores.
var DefaultQueue = NewQueue(max(1, runtime.GOMAXPROCS(0)/2), MaxWaiting, MaxWaiting)

// Queue limits how many passwords are compared at once, and how many logins wait.
// Logins from addresses with an earlier success take precedence, so that a flood from
// unknown addresses cannot keep them out.
type Queue struct {
	slots          chan struct{} // holds one for each turn
	gate           chan struct{} // holds one for the next login from an unknown address
	unknown, known waiting
}

type waiting struct {
	n    atomic.Int32
	most int32
}

// NewQueue returns a queue with a number of turns at a time, and limits on the waiting
// logins from unknown and from known addresses.
func NewQueue(slots, unknown, known int) *Queue {
	q := &Queue{slots: make(chan struct{}, slots), gate: make(chan struct{}, 1)}
	q.unknown.most, q.known.most = int32(unknown), int32(known)
	return q
}

// Waiting returns the number of logins that wait for a turn.
func (q *Queue) Waiting() int { return int(q.unknown.n.Load() + q.known.n.Load()) }

// Enter waits for a turn, which lasts until leave is called. Friendly reports
// whether the login comes from an address with an earlier success.
func (q *Queue) Enter(ctx context.Context, friendly bool) (leave func(), err error) {
	kind := &q.unknown
	if friendly {
		kind = &q.known
	}
	defer kind.n.Add(-1)
	if kind.n.Add(1) > kind.most {
		return nil, ErrBusy
	}
	ctx, cancel := context.WithTimeoutCause(ctx, Patience, ErrBusy)
	defer cancel()
	if !friendly {
		select {
		case q.gate <- struct{}{}:
			defer func() { <-q.gate }()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	select {
	case q.slots <- struct{}{}:
		return func() { <-q.slots }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
