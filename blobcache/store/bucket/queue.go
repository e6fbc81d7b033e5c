package bucket

import (
	"container/list"
	"context"
	"sync"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// change is what is to be done to an object.
type change int

const (
	write   change = iota
	remove         // the object is to go
	replace        // the object is wrong, and is to be written again if there is content
)

// queueLimit bounds the names in a queue. They take some 20 MiB.
const queueLimit = 64 << 10

// queue has the names of objects that are to be written or removed. A name is in it
// once: a change of the object while it waits replaces the earlier one, and a change
// while it is being uploaded has it done again. The content of an object is read when
// its turn comes.
type queue struct {
	health *health
	do     func(ctx context.Context, name string, c change) error
	limit  int

	mu      sync.Mutex
	entries map[string]*entry
	waiting *list.List // of names, the next first
	lost    bool       // a name did not fit
	wake    chan struct{}
	empty   []chan struct{} // closed when the queue is empty
}

// entry is a name in a queue.
type entry struct {
	change  change
	running bool
	again   bool // it changed while it was running
}

func newQueue(h *health, do func(context.Context, string, change) error) *queue {
	return &queue{
		health: h, do: do, limit: queueLimit,
		entries: make(map[string]*entry), waiting: list.New(), wake: make(chan struct{}, 1),
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
	q.entries[name] = &entry{change: c}
	q.waiting.PushBack(name)
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

// size returns the number of changes in the queue, and whether some did not fit.
func (q *queue) size() (n int, lost bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.entries), q.lost
}

// next returns the change whose turn it is.
func (q *queue) next() (name string, c change, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	front := q.waiting.Front()
	if front == nil {
		return "", 0, false
	}
	name = q.waiting.Remove(front).(string)
	e := q.entries[name]
	e.running, e.again = true, false
	if q.waiting.Len() > 0 {
		q.signal() // another worker can take the next one
	}
	return name, e.change, true
}

// done records the result of a change. It is repeated after others if it failed.
func (q *queue) done(name string, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	e := q.entries[name]
	e.running = false
	if err != nil || e.again {
		q.waiting.PushBack(name)
		q.signal()
		return
	}
	delete(q.entries, name)
	if len(q.entries) == 0 {
		for _, c := range q.empty {
			close(c)
		}
		q.empty = nil
	}
}

// drained returns a channel that is closed when the queue is empty.
func (q *queue) drained() <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	c := make(chan struct{})
	if len(q.entries) == 0 {
		close(c)
	} else {
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

// work makes changes, so many at once, until ctx ends. Then it waits for those that
// are running.
func (q *queue) work(ctx context.Context, workers int) {
	var all sync.WaitGroup
	for range workers {
		all.Go(func() { q.workOne(ctx) })
	}
	all.Wait()
}

func (q *queue) workOne(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-q.wake:
		}
		for {
			name, c, ok := q.next()
			if !ok {
				break
			}
			if !q.health.wait(ctx) {
				q.done(name, ctx.Err())
				return
			}
			err := q.do(ctx, name, c)
			q.health.note(ctx, err)
			q.done(name, err)
			if err != nil && !concernsBucket(err) && !store.Pause(ctx, q.health.waits.pause) {
				return // the object is tried again, but not all the time
			}
		}
	}
}
