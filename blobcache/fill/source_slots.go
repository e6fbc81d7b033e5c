package fill

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// ErrBusy means that the endpoint, or the requesting group, has as many running
// transfers as it may have.
var ErrBusy = errors.New("too many downloads are under way")

// slots counts the running transfers by endpoint, and by the group that started
// them.
type slots struct {
	mu        sync.Mutex
	endpoints map[string]*endpointSlots
	freed     chan struct{} // closed and replaced when a slot is given back
}

type endpointSlots struct {
	taken  int
	groups map[string]int
}

// slot is the right to one transfer. Its owner must release it once.
type slot struct {
	of              *slots
	endpoint, group string
}

func newSlots() *slots {
	return &slots{endpoints: make(map[string]*endpointSlots), freed: make(chan struct{})}
}

// take returns a slot for a request's transfer, or an error that is [ErrBusy].
func (s *slots) take(req *Request) (*slot, error) {
	taken, _, err := s.tryTake(req)
	return taken, err
}

// await waits for a slot until ctx ends.
func (s *slots) await(ctx context.Context, req *Request) (*slot, error) {
	for {
		taken, freed, err := s.tryTake(req)
		if err == nil {
			return taken, nil
		}
		select {
		case <-freed:
		case <-ctx.Done():
			return nil, err
		}
	}
}

func (s *slots) tryTake(req *Request) (taken *slot, freed <-chan struct{}, err error) {
	limits := req.Source.withDefaults()
	s.mu.Lock()
	defer s.mu.Unlock()
	of := s.endpoints[req.Endpoint]
	if of == nil {
		of = &endpointSlots{groups: make(map[string]int)}
	}
	switch {
	case of.taken >= limits.Fills:
		return nil, s.freed, fmt.Errorf("%w: %d from this upstream", ErrBusy, of.taken)
	case req.Group != "" && of.groups[req.Group] >= limits.GroupFills:
		return nil, s.freed, fmt.Errorf("%w: %d from this upstream for the group %s", ErrBusy, of.groups[req.Group], req.Group)
	}
	s.endpoints[req.Endpoint] = of
	of.taken++
	of.groups[req.Group]++
	return &slot{s, req.Endpoint, req.Group}, nil, nil
}

// release returns the slot. It does nothing for a nil slot.
func (l *slot) release() {
	if l == nil {
		return
	}
	l.of.mu.Lock()
	defer l.of.mu.Unlock()
	of := l.of.endpoints[l.endpoint]
	of.taken--
	if of.groups[l.group]--; of.groups[l.group] == 0 {
		delete(of.groups, l.group)
	}
	if of.taken == 0 {
		delete(l.of.endpoints, l.endpoint)
	}
	close(l.of.freed)
	l.of.freed = make(chan struct{})
}
