package bucket

import (
	"container/heap"
	"container/list"
	"context"
	"sync"
	"time"
)

// change is what is to be done to an object.
type change int

const (
	write   change = iota
	remove         // the object is to go
	replace        // the object is wrong, and is to be written again if there is content
)

const (
	// queueLimit bounds the names in a queue. They take some 30 MiB.
	queueLimit = 64 << 10

	// retryLimit is the longest time until a change is tried again that fails although
	// others succeed. The time doubles, beginning with the first pause of the bucket.
	retryLimit = time.Hour

	// deniedLimit is the number of objects in a row to which access is denied, after
	// which it is taken to be denied to all.
	deniedLimit = 8
)

// queue has the names of objects that are to be written or removed. A name is in it
// once: a change of the object while it waits replaces the earlier one, and a change
// while the earlier one is being made is made after it. The content of an object is read when
// its turn comes. An object that fails is tried again later and later, and does not hold
// up others.
type queue struct {
	health *health
	do     func(ctx context.Context, name string, c change) error
	failed func(name string, err error) // called when an object fails, at most once a minute
	limit  int

	mu       sync.Mutex
	entries  map[string]*entry
	added    *list.List // of all names, the oldest first
	waiting  *list.List // of names, the next first
	later    byDue      // entries that have failed
	running  int
	retried  int  // of the running ones, those that have failed before
	lost     bool // a name did not fit
	wake     chan struct{}
	empty    []chan struct{} // closed when the queue is empty
	settled  []chan struct{} // closed when it is empty but for entries that have failed
	denied   map[string]bool // since the last success, at most deniedLimit
	reported time.Time       // when failed was called
	err      error           // of the last entry that has failed
}

// entry is a name in a queue.
type entry struct {
	name     string
	change   change
	since    time.Time
	added    *list.Element
	running  bool
	again    bool      // it changed while it was running
	failures int       // that concern this object
	due      time.Time // if it is in later
}

func newQueue(h *health, do func(context.Context, string, change) error, failed func(string, error)) *queue {
	return &queue{
		health: h, do: do, failed: failed, limit: queueLimit,
		entries: make(map[string]*entry), added: list.New(), waiting: list.New(), wake: make(chan struct{}, 1),
		denied: make(map[string]bool),
	}
}

// add adds a change. It reports false if the queue is full, and remembers that.
func (q *queue) add(name string, c change) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e := q.entries[name]; e != nil {
		if e.change != replace || c == remove {
			e.change = c
		}
		e.again = e.running
		return true
	}
	if len(q.entries) >= q.limit {
		q.lost = true
		return false
	}
	e := &entry{name: name, change: c, since: time.Now()}
	e.added = q.added.PushBack(e)
	q.entries[name] = e
	q.waiting.PushBack(e)
	q.signal()
	return true
}

func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// pending reports whether a change of the object is in the queue, and which.
func (q *queue) pending(name string) (change, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e := q.entries[name]; e != nil {
		return e.change, true
	}
	return 0, false
}

// queueStatus describes a queue.
type queueStatus struct {
	n      int       // changes
	failed int       // of them, those that have failed and are tried again
	lost   bool      // some did not fit
	oldest time.Time // when the first of them was added, or zero
	err    error     // of the last one that has failed, if there are any
}

func (q *queue) status() queueStatus {
	q.mu.Lock()
	defer q.mu.Unlock()
	status := queueStatus{n: len(q.entries), failed: len(q.later) + q.retried, lost: q.lost}
	if front := q.added.Front(); front != nil {
		status.oldest = front.Value.(*entry).since
	}
	if status.failed > 0 {
		status.err = q.err
	}
	return status
}

// failures returns how often a change of the object has failed although others may
// succeed.
func (q *queue) failures(name string) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	if e := q.entries[name]; e != nil {
		return e.failures
	}
	return 0
}

// next returns the next entry and its change, or how long to wait for one, and whether the
// wait is because the bucket is left alone. Changes that are tried again come first, because
// there are few of them at a time. While the bucket fails they come last, because their
// failure would not show that it still does.
func (q *queue) next() (e *entry, c change, wait time.Duration, paused bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	wait = retryLimit
	var due *entry
	if len(q.later) > 0 {
		if wait = time.Until(q.later[0].due); wait <= 0 {
			due = q.later[0]
		}
	}
	failing := q.health.isFailing()
	if due != nil && !failing && q.health.check(due.name) == nil {
		e = due
	}
	// While the bucket fails for the first one only, the second is next.
	front := q.waiting.Front()
	for n := 0; e == nil && front != nil && n < 2; n, front = n+1, front.Next() {
		if paused = q.health.check(front.Value.(*entry).name) != nil; !paused {
			e = q.waiting.Remove(front).(*entry)
			break
		}
	}
	if e == nil && due != nil && !paused {
		if paused = q.health.check(due.name) != nil; !paused {
			e = due
		}
	}
	if e == nil {
		return nil, 0, wait, paused
	}
	if e == due {
		heap.Pop(&q.later)
	}
	e.running, e.again = true, false
	if e.failures > 0 {
		q.retried++
	}
	q.running++
	q.signal() // another worker can take the next one
	return e, e.change, 0, false
}

// done records the result of a change. A change that failed is repeated after the others, or
// at growing intervals if the object is to blame: own says so for errors for which the
// bucket may be to blame too.
func (q *queue) done(e *entry, err error, own bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e.running = false
	q.running--
	if e.failures > 0 {
		q.retried--
	}
	switch {
	case err != nil && (own || isDenied(err) || !concernsBucket(err)):
		e.due = time.Now().Add(min(q.health.breaker.Pause<<min(e.failures, 16), retryLimit))
		e.failures++
		heap.Push(&q.later, e)
		q.err = err
		if now := time.Now(); now.Sub(q.reported) > time.Minute {
			q.reported = now
			q.failed(e.name, err)
		}
	case err != nil || e.again:
		q.waiting.PushBack(e)
	default:
		delete(q.entries, e.name)
		q.added.Remove(e.added)
	}
	q.signal()
	if len(q.entries) == 0 {
		closeAll(&q.empty)
	}
	if q.isSettled() {
		closeAll(&q.settled)
	}
}

func (q *queue) isSettled() bool { return q.running+q.waiting.Len() == 0 }

func closeAll(all *[]chan struct{}) {
	for _, c := range *all {
		close(c)
	}
	*all = nil
}

// await returns a channel that is closed when the queue is empty, or, if settled is set,
// when it has nothing but changes that have failed.
func (q *queue) await(settled bool) <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := make(chan struct{})
	switch {
	case len(q.entries) == 0 || settled && q.isSettled():
		close(c)
	case settled:
		q.settled = append(q.settled, c)
	default:
		q.empty = append(q.empty, c)
	}
	return c
}

// recover reports whether names did not fit, and forgets that: the caller looks for
// what is missing.
func (q *queue) recover() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	lost := q.lost
	q.lost = false
	return lost
}

// byDue is a heap of entries with the one that is due first on top.
type byDue []*entry

func (b byDue) Len() int           { return len(b) }
func (b byDue) Less(i, j int) bool { return b[i].due.Before(b[j].due) }
func (b byDue) Swap(i, j int)      { b[i], b[j] = b[j], b[i] }
func (b *byDue) Push(e any)        { *b = append(*b, e.(*entry)) }
func (b *byDue) Pop() any {
	last := len(*b) - 1
	e := (*b)[last]
	*b = (*b)[:last]
	return e
}
