package caddymodule

import (
	"encoding/json"
	"slices"
	"sync"
)

// running are the sites that the admin API can speak of: it is made without a
// configuration, so this is how it finds them.
var running sites

// sites are the handlers that are provisioned. During a reload those of both
// configurations are, and the newest counts; should it be refused, its handlers
// go and those before are found again.
type sites struct {
	mu   sync.Mutex
	list []runningSite // in the order of provisioning
}

type runningSite struct {
	*Handler
	load <-chan struct{} // which configuration it is of
}

// add makes a handler known. It tells whether another site of the same
// configuration has its name without being the same to an access token.
func (s *sites) add(h *Handler, load <-chan struct{}) (ambiguous bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h.proxyWarning = new(sync.Once)
	for _, other := range s.list {
		if other.load == load {
			h.proxyWarning = other.proxyWarning
		}
		if other.load == load && other.Name == h.Name && other.who != h.who {
			other.accounts.DisableTokens()
			h.accounts.DisableTokens()
			ambiguous = true
		}
	}
	s.list = append(s.list, runningSite{h, load})
	return ambiguous
}

func (s *sites) remove(h *Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = slices.DeleteFunc(s.list, func(site runningSite) bool { return site.Handler == h })
}

// now are the handlers of the newest configuration.
func (s *sites) now() []*Handler {
	s.mu.Lock()
	defer s.mu.Unlock()
	var handlers []*Handler
	for _, site := range s.list {
		if site.load == s.list[len(s.list)-1].load {
			handlers = append(handlers, site.Handler)
		}
	}
	return handlers
}

// whoMayWhat is equal for two sites at which an access token means the same. It
// is asked before the guests are loaded, which takes their configuration away.
func (h *Handler) whoMayWhat() string {
	text, err := json.Marshal([]any{h.DirectoriesRaw, h.Groups, h.Admins, h.Blocked, h.PrivateGroups})
	if err != nil {
		panic(err) // it was JSON a moment ago
	}
	return string(text)
}
