package bucket

import (
	"context"
	"errors"
	"sync"
	"time"
)

// errNotAsked means that there is nothing to change, so the bucket was not asked.
var errNotAsked = errors.New("there is nothing to change")

// work makes changes with a number of workers until ctx ends. Then it waits for those that
// are running.
func (q *queue) work(ctx context.Context, workers int) {
	var all sync.WaitGroup
	for range workers {
		all.Go(func() { q.workOne(ctx) })
	}
	all.Wait()
}

func (q *queue) workOne(ctx context.Context) {
	for ctx.Err() == nil {
		e, c, wait, paused := q.next()
		switch {
		case paused:
			q.health.breaker.Sleep(ctx, q.wake)
			continue
		case e == nil:
			q.sleep(ctx, wait)
			continue
		}
		err := q.do(ctx, e.name, c)
		if errors.Is(err, errNotAsked) {
			q.done(e, nil, false)
			continue
		}
		own := q.health.note(ctx, e.name, q.judge(e.name, err))
		q.done(e, err, own)
	}
}

// sleep waits for a change, for a time at most.
func (q *queue) sleep(ctx context.Context, wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-q.wake:
	case <-timer.C:
	}
}

// judge returns the error of a change as the health of the bucket is to see it: access
// that is denied to few objects does not concern the others.
func (q *queue) judge(name string, err error) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err == nil {
		clear(q.denied)
	}
	if !isDenied(err) {
		return err
	}
	if len(q.denied) < deniedLimit {
		q.denied[name] = true
	}
	if len(q.denied) < deniedLimit {
		return nil
	}
	return err
}
