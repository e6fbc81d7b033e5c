package admin

import (
	"sync"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
)

// Scrubber runs the checks of a storage that the admin API asks for, one at a time.
type Scrubber struct {
	// Scrub checks all that is stored, reading at most rate bytes a second; 0 is no
	// bound. It ends with the storage.
	Scrub func(rate int64) (blobcache.Scrubbing, error)

	mu    sync.Mutex
	state ScrubState
}

// Start begins a check unless one is running already.
func (s *Scrubber) Start(rate int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.Running {
		return
	}
	s.state = ScrubState{Running: true, Since: time.Now().UTC()}
	go func() {
		r, err := s.Scrub(rate)
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

// State returns the state of the last check that was asked for.
func (s *Scrubber) State() ScrubState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}
