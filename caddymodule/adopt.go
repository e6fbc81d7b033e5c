package caddymodule

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// adoptDelay is how long after the last site has named its first upstream a cache
// of the former version is gone through: all sites of a configuration are ready
// by then.
const adoptDelay = 2 * time.Second

// adoption goes through the links of a cache of the former version, which linked
// whatever an upstream only said that it had, once. Those of the first upstream of
// a site are kept.
type adoption struct {
	mu      sync.Mutex
	trusted []string // sources
	named   time.Time
}

// trust adds the sources of a site's first upstream.
func (a *adoption) trust(sources []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.trusted = append(a.trusted, sources...)
	a.named = time.Now()
}

// ready returns the sources once no site has named any for a while, nil before.
func (a *adoption) ready() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.named.IsZero() || time.Since(a.named) < adoptDelay {
		return nil
	}
	return a.trusted
}

// run goes through the links in the background.
func (a *adoption) run(ctx context.Context, blobs store.Blobs, known *index.Index) {
	ticker := time.NewTicker(adoptDelay / 4)
	defer ticker.Stop()
	trusted := a.ready()
	for ; trusted == nil; trusted = a.ready() {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
	done, err := known.Adopt(ctx, blobs, trusted)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		processLogger().Warn("a cache of the former version could not be gone through; the next start goes on", zap.Error(err))
	case done != index.Adopted{}:
		processLogger().Info("the cache is of the former version: links that are not sure to be proved are dropped; the next pull fetches their content again",
			zap.Int("kept", done.Kept), zap.Int("dropped", done.Dropped))
	}
}
