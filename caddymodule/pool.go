package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"
	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/accesstoken"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/pool"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// What outlives a configuration: fills in flight, keys, upstream tokens and who
// has guessed at passwords. A
// reload takes its references before the old configuration gives its own up,
// so values with the same key live on. None of them needs stopping: requests
// of an old configuration may go on with them after the last reference.
var (
	vaults     = pool.New((*vault).close)
	quotas     = pool.New((*keptQuotas).close)
	issuers    = pool.New[*tokenissuer.Issuer](nil)
	tokens     = pool.New[*accesstoken.Store](nil)
	registries = pool.New[*upstream.Registry](nil)
	throttles  = pool.New[*access.Throttle](nil)
)

// vault is an open storage, and what was learnt about upstreams beside it.
type vault struct {
	name     string
	cache    *blobcache.Cache
	index    *blobcache.Index
	lists    *lists
	outgoing outgoing
	asking   questions
	scrubs
	adoption

	stop context.CancelFunc // of the cache's keeper
	kept chan struct{}      // closed when it has ended, and adoption too
}

// flushLimit bounds how long the end of the last configuration waits for disk.
const flushLimit = 10 * time.Second

func (v *vault) close() {
	ctx, cancel := context.WithTimeout(context.Background(), flushLimit)
	defer cancel()
	v.cache.Flush(ctx)
	v.stop()
	select {
	case <-v.kept:
	case <-ctx.Done():
	}
}

// keptQuotas are what groups have, and may have, of a vault. They are kept
// apart from it, since a configuration may change them and nothing else.
type keptQuotas struct {
	*blobcache.Quotas
	stop context.CancelFunc
	kept chan struct{}
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

func openVault(l *pool.Lease, storage Storage) (*vault, error) {
	return vaults.Acquire(l, storage.Identity(), func() (*vault, error) {
		shelf, records, err := storage.Open()
		if err != nil {
			return nil, err
		}
		ctx, stop := context.WithCancel(context.Background())
		limits := storage.Limits()
		limits.Parts = parts
		v := &vault{
			name:  storage.String(),
			cache: blobcache.NewBounded(shelf, limits, cacheHooks),
			index: blobcache.NewIndex(records),
			lists: newLists(),
			stop:  stop,
			kept:  make(chan struct{}),
		}
		v.scrubs.scrub = func(rate int64) (blobcache.Scrubbing, error) { return v.cache.Scrub(ctx, rate) }
		go func() {
			defer close(v.kept)
			var adopting sync.WaitGroup
			adopting.Go(func() { v.adoption.run(ctx, v.cache, v.index) })
			v.cache.Keep(ctx)
			adopting.Wait()
		}()
		return v, nil
	})
}

// openQuotas is called after the vault that they are of, and so given up before.
func openQuotas(l *pool.Lease, storage Storage, v *vault, groups []*Group) (*keptQuotas, error) {
	limits := make(map[string]int64)
	for _, g := range groups {
		if g.Quota > 0 {
			limits[g.Path] = g.Quota
		}
	}
	key := fmt.Sprintf("%s %v", storage.Identity(), limits)
	return quotas.Acquire(l, key, func() (*keptQuotas, error) {
		ctx, stop := context.WithCancel(context.Background())
		q := &keptQuotas{blobcache.NewQuotas(v.cache, v.index, limits), stop, make(chan struct{})}
		go func() {
			defer close(q.kept)
			q.Keep(ctx)
		}()
		return q, nil
	})
}

var cacheHooks = blobcache.Hooks{
	FillDone:  logFill,
	Joined:    logJoin,
	Resumed:   logResume,
	Abandoned: logAbandoned,
	Evicted: func(e blobcache.Entry, left int64) {
		processLogger().Debug("blob evicted", zap.String("digest", e.Digest.String()),
			zap.Int64("size", e.Size), zap.Time("used", e.Used), zap.Int64("stored", left))
	},
	Healed: func(d digest.Digest, why error) {
		processLogger().Warn("stored blob was damaged and is dropped; the next pull fetches it again",
			zap.String("digest", d.String()), zap.Error(why))
	},
	Scrubbed: func(s blobcache.Scrubbing) {
		processLogger().Info("stored blobs were checked", zap.Int("checked", s.Checked), zap.Int64("size", s.Bytes),
			zap.Int("damaged", s.Damaged), zap.Int("healed", s.Healed), zap.Duration("duration", s.Took))
	},
	Trimmed: func(group string, links int, size int64) {
		processLogger().Info("group was over its quota", zap.String("group", group),
			zap.Int("evicted", links), zap.Int64("size", size))
	},
	Trouble: func(op string, err error) {
		processLogger().Warn("cache storage is in trouble; pulls go on", zap.String("operation", op), zap.Error(err))
	},
}

func logFill(d digest.Digest, size int64, took time.Duration, err error) {
	fields := []zap.Field{zap.String("digest", d.String()), zap.Int64("size", size), zap.Duration("duration", took)}
	if errors.Is(err, blobcache.ErrAbandoned) {
		processLogger().Debug("blob was not cached", append(fields, zap.Error(err))...)
		return
	}
	if err != nil {
		processLogger().Warn("blob was not cached", append(fields, zap.Error(err))...)
		return
	}
	processLogger().Debug("blob cached", fields...)
}

func logJoin(d digest.Digest) {
	processLogger().Debug("request follows a fetch under way", zap.String("digest", d.String()))
}

func logResume(d digest.Digest, offset int64, err error) {
	processLogger().Debug("upstream broke off; the fetch is resumed",
		zap.String("digest", d.String()), zap.Int64("offset", offset), zap.Error(err))
}

func logAbandoned(d digest.Digest, written, size int64, goesOn bool) {
	processLogger().Debug("nobody reads a fetch under way any more", zap.String("digest", d.String()),
		zap.Int64("fetched", written), zap.Int64("size", size), zap.Bool("goes_on", goesOn))
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
