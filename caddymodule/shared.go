package caddymodule

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/admin"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/events"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/pool"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/metrics"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/redirect"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/storage"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/usage"
	"github.com/dependencyproxy/caddy-dependency-proxy/pullthrough"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
	upstreamauth "github.com/dependencyproxy/caddy-dependency-proxy/upstream/auth"
)

// These values outlive a configuration. During a reload, the new configuration
// acquires its references before the old one releases its own, so values with the
// same key survive. Requests of an old configuration may continue to use them after
// the last reference is released.
var (
	caches        = pool.New((*sharedCache).close)
	quotas        = pool.New((*sharedQuotas).close)
	issuers       = pool.New[*tokenissuer.Issuer](nil)
	tokens        = pool.New[*accesstoken.Store](nil)
	logins        = pool.New[upstreamauth.Source](nil)
	registries    = pool.New[*upstream.Registry](nil)
	throttles     = pool.New[*access.Throttle](nil)
	proxyWarnings = pool.New[*sync.Once](nil) // by configuration
)

// absences are bounded for the whole process. Each configuration has its own.
var absences = pullthrough.NewAbsences()

// sharedCache is the cache in one storage, shared by all sites that use the storage.
type sharedCache struct {
	name      string // of the storage, for messages
	blobs     *blobcache.Cache
	index     *index.Index
	lists     *pullthrough.Lists
	sizes     *pullthrough.Sizes
	questions pullthrough.Questions
	outgoing  pullthrough.Outgoing
	scrubs    admin.Scrubber
	missing   admin.MissingLog
	usage     *usage.Recorder
	adoption  pullthrough.Adoption
	remote    storage.Remote  // nil without a copy elsewhere
	replicas  []fill.Replica  // the copy, if there is one
	unsafe    sync.Once       // limits the log lines about redirects that are not safe
	redirects redirect.Source // nil if pulls are not redirected

	stop context.CancelFunc // ends upkeep and adoption
	done chan struct{}      // closed when both have ended
}

// listsFreshFor is how long a list of tags or referrers is used without asking the
// upstream again.
const listsFreshFor = 30 * time.Second

// flushLimit is how long the end of the last configuration waits for the disk.
const flushLimit = 10 * time.Second

func (c *sharedCache) close() {
	ctx, cancel := context.WithTimeout(context.Background(), flushLimit)
	defer cancel()
	c.blobs.Flush(ctx)
	c.stop()
	select {
	case <-c.done:
	case <-ctx.Done():
	}
}

// sharedQuotas has the quotas of a cache. They are not part of the cache, because a
// new configuration may change the quotas alone.
type sharedQuotas struct {
	quotas *blobcache.Quotas
	stop   context.CancelFunc // ends the upkeep
	done   chan struct{}      // closed when the upkeep has ended
}

func (q *sharedQuotas) close() {
	q.stop()
	select {
	case <-q.done:
	case <-time.After(flushLimit):
	}
}

// processLogger returns the present logger of the process, for values that outlive a
// configuration.
func processLogger() *zap.Logger {
	return admin.Remember(caddy.Log().Named("http.handlers.dependency_proxy"))
}

func (h *Handler) provisionDirectories(ctx caddy.Context) error {
	h.accounts = access.NewAccounts(access.Config{
		Site: h.Name, Admins: h.Admins, Blocked: h.Blocked, Groups: accessGroups(h.Groups...), Logger: h.logger,
	})
	if h.DirectoriesRaw == nil {
		return nil
	}
	names, err := access.ListDirectories(h.DirectoriesRaw) // before loading clears them
	if err != nil {
		return err
	}
	mods, err := ctx.LoadModule(h, "DirectoriesRaw")
	if err != nil {
		return err
	}
	for i, mod := range mods.([]any) {
		h.accounts.Add(names[i].Name, mod.(directory.Directory))
	}
	return nil
}

func (h *Handler) loadStorage(ctx caddy.Context) (storage.Storage, error) {
	if h.StorageRaw == nil {
		h.StorageRaw = json.RawMessage(`{"type":"filesystem"}`)
	}
	mod, err := ctx.LoadModule(h, "StorageRaw")
	if err != nil {
		return nil, err
	}
	return mod.(storage.Storage), nil
}

func openCache(lease *pool.Lease, module storage.Storage) (*sharedCache, error) {
	return caches.Acquire(lease, module.Identity(), func() (*sharedCache, error) {
		hooks := events.StorageHooks(events.StorageSource(module.Identity()), module.String(), storage.LogHooks(processLogger))
		blobs, records, err := module.Open(processLogger, hooks.StorageError)
		if err != nil {
			return nil, err
		}
		ctx, stop := context.WithCancel(context.Background())
		limits := module.Limits()
		limits.Children = pullthrough.Children
		known := index.New(records)
		c := &sharedCache{
			name:  module.String(),
			blobs: blobcache.New(blobs, limits, metrics.CountCache(hooks)),
			index: known,
			lists: pullthrough.NewLists(listsFreshFor),
			sizes: pullthrough.NewSizes(),
			usage: usage.New(records, known, func(err error) { hooks.StorageError("record usage", err) }),
			stop:  stop,
			done:  make(chan struct{}),
		}
		known.Purged = func(prefix string) {
			if scope, ok := strings.CutSuffix(prefix, "/_"); ok {
				c.lists.ForgetScope(scope)
				absences.ForgetScope(scope)
				return
			}
			c.lists.ForgetGroup(prefix)
			absences.ForgetGroup(prefix)
		}
		if remote, ok := blobs.(storage.Remote); ok {
			c.remote, c.replicas = remote, []fill.Replica{remote.Replica()}
		}
		c.redirects, _ = blobs.(redirect.Source)
		c.scrubs.Scrub = func(rate int64, report func(blobcache.Scrubbing)) (blobcache.Scrubbing, error) {
			return c.blobs.Scrub(ctx, rate, report)
		}
		go func() {
			defer close(c.done)
			var beside sync.WaitGroup
			beside.Go(func() { c.adopt(ctx, blobs) })
			beside.Go(func() { c.usage.Keep(ctx) })
			if keeper, ok := blobs.(storage.Keeper); ok {
				beside.Go(func() { keeper.Keep(ctx) })
			}
			c.blobs.Keep(ctx)
			beside.Wait()
		}()
		return c, nil
	})
}

// adopt drops links of an earlier version that are not proven, see
// [pullthrough.Adoption].
func (c *sharedCache) adopt(ctx context.Context, blobs store.Blobs) {
	done, err := c.adoption.Run(ctx, blobs, c.index)
	switch {
	case ctx.Err() != nil:
	case err != nil:
		processLogger().Warn("cannot migrate the cache of an earlier version; the next start continues", zap.Error(err))
	case done != index.Adopted{}:
		processLogger().Info("migrated the cache of an earlier version: dropped the links that may not be proven; the next pull fetches their content again",
			zap.Int("kept", done.Kept), zap.Int("dropped", done.Dropped))
	}
}

// openQuotas must be called after openCache, so that the lease releases the quotas
// before their cache.
func openQuotas(lease *pool.Lease, module storage.Storage, c *sharedCache, groups []*Group) (*blobcache.Quotas, error) {
	limits := make(map[string]int64)
	for _, g := range groups {
		if g.Quota > 0 {
			limits[g.Path] = g.Quota
		}
	}
	key := fmt.Sprintf("%s %v", module.Identity(), limits)
	shared, err := quotas.Acquire(lease, key, func() (*sharedQuotas, error) {
		ctx, stop := context.WithCancel(context.Background())
		q := &sharedQuotas{blobcache.NewQuotas(c.blobs, c.index, limits), stop, make(chan struct{})}
		go func() {
			defer close(q.done)
			q.quotas.Keep(ctx)
		}()
		return q, nil
	})
	if err != nil {
		return nil, err
	}
	return shared.quotas, nil
}

// keyPrefix is the folder of the signing keys in Caddy's storage.
const keyPrefix = "dependency_proxy/keys"

func openIssuer(lease *pool.Lease, storage certmagic.Storage, settings Token) (*tokenissuer.Issuer, error) {
	key := fmt.Sprintf("%v %v", storage, settings.rotate())
	return issuers.Acquire(lease, key, func() (*tokenissuer.Issuer, error) {
		return tokenissuer.New(tokenissuer.Config{
			Storage:       storage,
			Prefix:        keyPrefix,
			Audience:      service,
			Rotate:        settings.rotate(),
			TokenLifetime: refreshLifetime,
			Hooks: tokenissuer.Hooks{
				BadKey: func(name string, err error) {
					processLogger().Error("signing key is unusable", zap.String("key", name), zap.Error(err))
				},
				StorageError: func(err error) {
					processLogger().Warn("cannot list the signing keys; using the known ones", zap.Error(err))
				},
				KeyCreated: func(kid string) { processLogger().Info("signing key created", zap.String("kid", kid)) },
			},
		}), nil
	})
}

// openThrottle returns the throttle of all sites with the same storage, however
// their configurations differ.
func openThrottle(lease *pool.Lease, storage certmagic.Storage) (*access.Throttle, error) {
	return throttles.Acquire(lease, fmt.Sprint(storage), func() (*access.Throttle, error) { return access.NewThrottle(access.LoginTimes, 0), nil })
}

// openTokens returns the access tokens in a storage. All sites with the same storage
// share them, so that a token that is revoked ends at all sites at once.
func openTokens(lease *pool.Lease, storage certmagic.Storage) (*accesstoken.Store, error) {
	return tokens.Acquire(lease, fmt.Sprint(storage), func() (*accesstoken.Store, error) {
		return accesstoken.New(accesstoken.Config{Storage: storage, Hooks: accesstoken.Hooks{
			BadFile: func(id string, err error) {
				processLogger().Error("access token is unusable", zap.String("access_token", id), zap.Error(err))
			},
			StorageError: func(err error) {
				processLogger().Warn("cannot maintain the access tokens; they remain valid", zap.Error(err))
			},
		}}), nil
	})
}

var (
	_ tokenissuer.Storage = certmagic.Storage(nil)
	_ accesstoken.Storage = certmagic.Storage(nil)
)
