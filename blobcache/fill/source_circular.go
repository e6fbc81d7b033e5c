package fill

import (
	"context"
	"slices"
)

// follower is a request of a peer that follows a fill.
type follower struct {
	ctx      context.Context
	circular func(peer Replica, answered bool) bool // see [Request.Circular]
	end      context.CancelCauseFunc
}

// follow returns the context for a request that follows the fill of these replicas. The
// context ends with [ErrCircular] as soon as the request must not wait for the current
// peer: at once, or after another peer has been given up.
func (s *replicas) follow(ctx context.Context, circular func(peer Replica, answered bool) bool) context.Context {
	if s == nil || circular == nil {
		return ctx
	}
	ctx, cancel := context.WithCancelCause(ctx)
	s.mu.Lock()
	s.followers = append(s.followers, follower{ctx, circular, cancel})
	s.mu.Unlock()
	s.endCircular()
	return ctx
}

// endCircular ends the requests that must not wait for the current peer.
func (s *replicas) endCircular() {
	replica, peer := s.next()
	if !peer {
		return
	}
	s.mu.Lock()
	answered := slices.Contains(s.used, replica)
	s.followers = slices.DeleteFunc(s.followers, func(f follower) bool { return f.ctx.Err() != nil })
	followers := slices.Clone(s.followers)
	s.mu.Unlock()
	for _, f := range followers {
		if f.circular(replica, answered) {
			f.end(ErrCircular)
		}
	}
}
