package s3test

import (
	"net/http"
	"strings"
)

// Faults say how the server fails, all at once. The zero value is a server that works.
type Faults struct {
	// Down closes each connection without an answer.
	Down bool

	// Stalled lets each request wait for an answer until the faults change or its
	// client gives up.
	Stalled bool

	// StalledBody sends the first half of each object and then nothing, until the
	// faults change or the client gives up.
	StalledBody bool

	// Status and Code, if they are set, answer each request: 503 SlowDown,
	// 403 AccessDenied.
	Status int
	Code   string

	// Full refuses what stores content, with 507.
	Full bool

	// Wrong changes a byte of the content of each answer.
	Wrong bool

	// Cut ends the content of each answer after half of it.
	Cut bool

	// ListLater hides objects from listings that are stored while it is set, until the
	// faults change.
	ListLater bool

	// AccessKey, if set, is the only one that is accepted.
	AccessKey string

	// Only, if set, limits all of that but AccessKey, Wrong, Cut and StalledBody to
	// requests for objects whose keys contain it.
	Only string
}

// Set replaces the faults. Requests that are stalled go on.
func (s *Server) Set(f Faults) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = f
	for _, o := range s.objects {
		o.unlisted = o.unlisted && f.ListLater
	}
	close(s.freed)
	s.freed = make(chan struct{})
}

// current returns the faults, and a channel that is closed when they change.
func (s *Server) current() (Faults, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.faults, s.freed
}

// pass reports whether a request is to be answered, and otherwise fails it.
func (s *Server) pass(w http.ResponseWriter, r *http.Request) bool {
	faults, freed := s.current()
	if !strings.Contains(r.URL.Path, faults.Only) {
		return true
	}
	if faults.Stalled {
		wait(r, freed)
		faults, _ = s.current()
	}
	switch {
	case faults.Down:
		panic(http.ErrAbortHandler)
	case faults.Status != 0:
		refuse(w, r, faults.Status, faults.Code)
	case faults.Full && (r.Method == http.MethodPut || r.Method == http.MethodPost):
		refuse(w, r, http.StatusInsufficientStorage, "XMinioStorageFull")
	default:
		return true
	}
	return false
}

func wait(r *http.Request, freed <-chan struct{}) {
	select {
	case <-freed:
	case <-r.Context().Done():
	}
}
