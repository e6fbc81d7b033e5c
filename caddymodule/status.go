package caddymodule

import (
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
)

// scrubs are the checks of a storage that somebody asked for: one at a time.
type scrubs struct {
	scrub func(rate int64) (blobcache.Scrubbing, error) // ends with the storage

	mu    sync.Mutex
	state scrubState
}

// start begins a check unless one is running already.
func (s *scrubs) start(rate int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.Running {
		return
	}
	s.state = scrubState{Running: true, Since: time.Now().UTC()}
	go func() {
		r, err := s.scrub(rate)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.state.Running = false
		s.state.Result = &scrubbing{
			Checked: r.Checked, Bytes: r.Bytes, Damaged: r.Damaged, Healed: r.Healed, Seconds: r.Took.Seconds(),
		}
		if err != nil {
			s.state.Error = err.Error()
		}
	}()
}

func (s *scrubs) now() scrubState {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// site returns the handler as the admin API sees it.
func (h *Handler) site(ctx caddy.Context) *runningSite {
	return &runningSite{
		name: h.Name, load: ctx.Done(), identity: h.who, tokens: h.tokens, explain: h.explain,
		storage: h.cache, status: h.cacheStatus, scrub: h.cache.scrubs.start,
	}
}

func (h *Handler) cacheStatus() cacheStatus {
	status := cacheStatus{Storage: h.cache.name, Groups: make(map[string]groupUsage), Fills: []fillStatus{}, Scrub: h.cache.scrubs.now()}
	for group, total := range h.quotas.Totals() {
		status.Groups[group] = h.usageOf(group, total)
	}
	for _, f := range h.cache.blobs.Fills() {
		status.Fills = append(status.Fills, fillStatus{
			Digest: f.Digest.String(), Size: f.Size, Written: f.Written, Readers: f.Readers, Since: f.Since.UTC(),
		})
	}
	return status
}

func (h *Handler) usageOf(group string, total blobcache.Total) groupUsage {
	usage := groupUsage{Bytes: total.Bytes, Blobs: total.Blobs, Measured: total.Measured.UTC()}
	if i := slices.IndexFunc(h.Groups, func(g *Group) bool { return g.Path == group }); i >= 0 {
		usage.Quota = h.Groups[i].Quota
	}
	return usage
}
