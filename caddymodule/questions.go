package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

const (
	// mostQuestions is how many questions about manifests, tags, lists and sizes an
	// upstream is asked at a time for one group. Each takes a connection, and may
	// take as long as upstream likes, up to half a minute, whether its client waits
	// for it or not.
	mostQuestions = 64

	// mostWaiting is how many more wait for their turn.
	mostWaiting = 1024
)

var errTooManyQuestions = errors.New("too many questions are under way")

// questions are what upstreams are being asked beside downloads, by endpoint and
// group.
type questions struct {
	mu     sync.Mutex
	queues map[queueKey]*queue
}

type queueKey struct{ endpoint, group string }

// queue is that of a group at an endpoint. It is forgotten with the last question.
type queue struct {
	turns chan struct{}
	asked int // those that wait included
}

// take waits for a turn until ctx ends. Done is to be called when upstream has
// answered.
func (q *questions) take(ctx context.Context, key queueKey) (done func(), err error) {
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
		return nil, fmt.Errorf("%w: no turn came for the group %s", errTooManyQuestions, key.group)
	}
}

func (q *questions) join(key queueKey) (*queue, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	at := q.queues[key]
	if at == nil {
		if q.queues == nil {
			q.queues = make(map[queueKey]*queue)
		}
		at = &queue{turns: make(chan struct{}, mostQuestions)}
		q.queues[key] = at
	}
	if at.asked >= mostQuestions+mostWaiting {
		return nil, fmt.Errorf("%w: %d for the group %s", errTooManyQuestions, at.asked, key.group)
	}
	at.asked++
	return at, nil
}

func (q *questions) leave(key queueKey, at *queue) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if at.asked--; at.asked == 0 {
		delete(q.queues, key)
	}
}

// askOf asks upstream something when it is the group's turn.
func askOf[T any](ctx context.Context, p *repository, ask func() (T, error)) (T, error) {
	done, err := p.asking.take(ctx, queueKey{p.endpoint, p.share})
	if err != nil {
		var none T
		return none, err
	}
	defer done()
	return ask()
}

// getManifest asks for a manifest itself.
func (p *repository) getManifest(ctx context.Context, reference string) (upstream.Manifest, error) {
	return askOf(ctx, p, func() (upstream.Manifest, error) { return p.registry.Manifest(ctx, p.name, reference) })
}
