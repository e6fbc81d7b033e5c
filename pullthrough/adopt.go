package pullthrough

import (
	"context"
	"sync"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// adoptDelay is how long after the last site has named its first upstream a cache
// of the former version is gone through: all sites of a configuration are ready
// by then.
const adoptDelay = 2 * time.Second

// Adoption goes through the links of a cache of the former version, which linked
// content that an upstream had only confirmed once. Those of the first upstream of
// a site are kept. The zero value is ready to use.
type Adoption struct {
	mu      sync.Mutex
	trusted []string
	named   time.Time
}

// Trust adds the sources of a site's first upstream.
func (a *Adoption) Trust(sources []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.trusted = append(a.trusted, sources...)
	a.named = time.Now()
}

// ready returns the sources once no site has added any for a while, nil before.
func (a *Adoption) ready() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.named.IsZero() || time.Since(a.named) < adoptDelay {
		return nil
	}
	return a.trusted
}

// Run waits for the sources of all sites, and goes through the links. It returns
// early, with the context's error, when the context ends.
func (a *Adoption) Run(ctx context.Context, blobs store.Blobs, records *index.Index) (index.Adopted, error) {
	ticker := time.NewTicker(adoptDelay / 4)
	defer ticker.Stop()
	trusted := a.ready()
	for ; trusted == nil; trusted = a.ready() {
		select {
		case <-ctx.Done():
			return index.Adopted{}, ctx.Err()
		case <-ticker.C:
		}
	}
	return records.Adopt(ctx, blobs, trusted)
}
