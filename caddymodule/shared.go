package caddymodule

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/admin"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/pool"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/storage"
	"github.com/dependencyproxy/caddy-dependency-proxy/pullthrough"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// What outlives a configuration: fills in flight, keys, upstream tokens and who
// has guessed at passwords. A
// reload takes its references before the old configuration gives its own up,
// so values with the same key live on. None of them needs stopping: requests
// of an old configuration may go on with them after the last reference.
var (
	caches        = pool.New((*sharedCache).close)
	quotas        = pool.New((*keptQuotas).close)
	issuers       = pool.New[*tokenissuer.Issuer](nil)
	tokens        = pool.New[*accesstoken.Store](nil)
	registries    = pool.New[*upstream.Registry](nil)
	throttles     = pool.New[*access.Throttle](nil)
	proxyWarnings = pool.New[*sync.Once](nil) // by configuration
)

// sharedCache is the cache in one storage, with what all sites that use it share.
type sharedCache struct {
	name      string // of the storage, for people
	blobs     *blobcache.Cache
	index     *index.Index
	lists     *pullthrough.Lists
	questions pullthrough.Questions
	outgoing  pullthrough.Outgoing
	scrubs    admin.Scrubber
	adoption  pullthrough.Adoption

	stop context.CancelFunc // ends the upkeep of the cache
	kept chan struct{}      // closed when the upkeep and the adoption have ended
}

// listsFreshFor is how long a list of tags or referrers is believed without asking
// upstream again.
const listsFreshFor = 30 * time.Second

// flushLimit bounds how long the end of the last configuration waits for disk.
const flushLimit = 10 * time.Second

func (c *sharedCache) close() {
	ctx, cancel := context.WithTimeout(context.Background(), flushLimit)
	defer cancel()
	c.blobs.Flush(ctx)
	c.stop()
	select {
	case <-c.kept:
	case <-ctx.Done():
	}
}

// keptQuotas are the quotas of a cache, with their upkeep. They are apart from
// the cache, since a configuration may change nothing but the quotas.
type keptQuotas struct {
	quotas *blobcache.Quotas
	stop   context.CancelFunc // ends the upkeep
	kept   chan struct{}      // closed when the upkeep has ended
}

func (q *keptQuotas) close() {
	q.stop()
	select {
	case <-q.kept:
	case <-time.After(flushLimit):
	}
}

// processLogger is for what outlives the configuration that started it.
func processLogger() *zap.Logger { return caddy.Log().Named("http.handlers.dependency_proxy") }

func openCache(l *pool.Lease, place storage.Storage) (*sharedCache, error) {
	return caches.Acquire(l, place.Identity(), func() (*sharedCache, error) {
		blobs, records, err := place.Open(processLogger)
		if err != nil {
			return nil, err
		}
		ctx, stop := context.WithCancel(context.Background())
		limits := place.Limits()
		limits.Children = pullthrough.Children
		c := &sharedCache{
			name:  place.String(),
			blobs: blobcache.New(blobs, limits, storage.LogHooks(processLogger)),
			index: index.New(records),
			lists: pullthrough.NewLists(listsFreshFor),
			stop:  stop,
			kept:  make(chan struct{}),
		}
		c.scrubs.Scrub = func(rate int64) (blobcache.Scrubbing, error) { return c.blobs.Scrub(ctx, rate) }
		go func() {
			defer close(c.kept)
			var adopting sync.WaitGroup
			adopting.Go(func() { c.adopt(ctx, blobs) })
			c.blobs.Keep(ctx)
			adopting.Wait()
		}()
		return c, nil
	})
}

// adopt takes over a cache of the former version in the background.
func (c *sharedCache) adopt(ctx context.Context, blobs store.Blobs) {
	done, err := c.adoption.Run(ctx, blobs, c.index)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		processLogger().Warn("a cache of the former version could not be gone through; the next start goes on", zap.Error(err))
	case done != index.Adopted{}:
		processLogger().Info("the cache is of the former version: links that are not sure to be proved are dropped; the next pull fetches their content again",
			zap.Int("kept", done.Kept), zap.Int("dropped", done.Dropped))
	}
}

// openQuotas must be called after openCache, so that the quotas are released before
// the cache that they are of.
func openQuotas(l *pool.Lease, place storage.Storage, c *sharedCache, groups []*Group) (*blobcache.Quotas, error) {
	limits := make(map[string]int64)
	for _, g := range groups {
		if g.Quota > 0 {
			limits[g.Path] = g.Quota
		}
	}
	key := fmt.Sprintf("%s %v", place.Identity(), limits)
	kept, err := quotas.Acquire(l, key, func() (*keptQuotas, error) {
		ctx, stop := context.WithCancel(context.Background())
		q := &keptQuotas{blobcache.NewQuotas(c.blobs, c.index, limits), stop, make(chan struct{})}
		go func() {
			defer close(q.kept)
			q.quotas.Keep(ctx)
		}()
		return q, nil
	})
	if err != nil {
		return nil, err
	}
	return kept.quotas, nil
}

// keyPrefix is where the signing keys live in Caddy's storage.
const keyPrefix = "dependency_proxy/keys"

func openIssuer(l *pool.Lease, storage certmagic.Storage, settings Token) (*tokenissuer.Issuer, error) {
	key := fmt.Sprintf("%v %v", storage, settings.rotate())
	return issuers.Acquire(l, key, func() (*tokenissuer.Issuer, error) { return newIssuer(storage, settings), nil })
}

// answerLogins are the times of each new throttle. Both are the same, except in
// tests, which must not wait for the one nor fail by the other.
var answerLogins = access.Times{Failed: time.Second, Checked: time.Second}

// openThrottle returns one for all sites whose keys are in one place, whatever else of
// their configuration changes.
func openThrottle(l *pool.Lease, storage certmagic.Storage) (*access.Throttle, error) {
	return throttles.Acquire(l, fmt.Sprint(storage), func() (*access.Throttle, error) { return access.NewThrottle(answerLogins, 0), nil })
}

// openTokens opens the access tokens in a storage. All sites on it share what is
// known, so that what one revokes is over at the others at once.
func openTokens(l *pool.Lease, storage certmagic.Storage) (*accesstoken.Store, error) {
	return tokens.Acquire(l, fmt.Sprint(storage), func() (*accesstoken.Store, error) {
		return accesstoken.New(accesstoken.Config{Storage: storage, Hooks: accesstoken.Hooks{
			BadFile: func(id string, err error) {
				processLogger().Error("access token is unusable", zap.String("access_token", id), zap.Error(err))
			},
			StorageError: func(err error) {
				processLogger().Warn("access tokens are not looked after; they are good all the same", zap.Error(err))
			},
		}}), nil
	})
}

func openRegistry(l *pool.Lease, key string, config upstream.Config) (*upstream.Registry, error) {
	return registries.Acquire(l, key, func() (*upstream.Registry, error) { return upstream.New(config) })
}

var (
	_ tokenissuer.Storage = certmagic.Storage(nil)
	_ accesstoken.Storage = certmagic.Storage(nil)
)
