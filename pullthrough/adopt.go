package pullthrough

import (
	"context"
	"sync"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// adoptDelay is the time between the last call of Trust and the start of an
// adoption. All sites of a configuration are provisioned within it.
const adoptDelay = 2 * time.Second

// Adoption migrates a cache of an earlier version, which linked content that an
// upstream had confirmed only once. It keeps links of the trusted sources and drops
// others that are not proven; see [index.Index.Adopt]. The zero value is ready to
// use.
type Adoption struct {
	mu        sync.Mutex
	trusted   []string
	lastTrust time.Time
}

// Trust adds the sources of the first upstream of a site.
func (a *Adoption) Trust(sources []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.trusted = append(a.trusted, sources...)
	a.lastTrust = time.Now()
}

// ready returns the trusted sources, or nil if some were added within adoptDelay.
func (a *Adoption) ready() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.lastTrust.IsZero() || time.Since(a.lastTrust) < adoptDelay {
		return nil
	}
	return a.trusted
}

// Run waits until all sites have called Trust, and migrates the links. It returns
// the error of the context if that ends first.
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
