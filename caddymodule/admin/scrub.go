package admin

import (
	"sync"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
)

// Scrubber runs the requested checks of a storage, one at a time.
type Scrubber struct {
	// Scrub checks all stored blobs. It reads at most rate bytes per second, where
	// 0 means no limit, and ends when the storage is closed. It calls report with
	// what it has found so far.
	Scrub func(rate int64, report func(blobcache.Scrubbing)) (blobcache.Scrubbing, error)

	mu    sync.Mutex
	state ScrubState
}

// Start starts a check unless one is running.
func (s *Scrubber) Start(rate int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.Running {
		return
	}
	s.state = ScrubState{Running: true, Since: time.Now().UTC()}
	go func() {
		r, err := s.Scrub(rate, s.advance)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.state.Running = false
		s.state.Result = &ScrubResult{
			Checked: r.Checked, Bytes: r.Bytes, Damaged: r.Damaged, Healed: r.Healed, Seconds: r.Took.Seconds(),
		}
		if err != nil {
			s.state.Error = err.Error()
		}
	}()
}

func (s *Scrubber) advance(r blobcache.Scrubbing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.state.Checked, s.state.Bytes = r.Checked, r.Bytes
}

// State returns the state of the last check that was requested.
func (s *Scrubber) State() ScrubState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}
