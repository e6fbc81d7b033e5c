package blobcache

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

const (
	// quotaDelay is the time from the start to the first measurement. It leaves
	// the disk to the sweep and to pulls.
	quotaDelay = 30 * time.Second

	// quotaInterval is the time between measurements if nothing happens. It is
	// longer if a measurement takes more than 1/quotaShare of it.
	quotaInterval = 10 * time.Minute
	quotaShare    = 50

	// quotaPending replaces quotaInterval while content is being stored for an
	// owner with a quota.
	quotaPending = time.Minute

	// quotaRest is the shortest time between two rounds. The rest after a round
	// is at least quotaRestShare times as long as the round.
	quotaRest      = 5 * time.Second
	quotaRestShare = 10
)

// Total is the stored content that the links of an owner, and of the owners below
// it, name.
type Total struct {
	Bytes    int64 // of each content once, in however many scopes it is
	Blobs    int   // contents
	Measured time.Time
}

// Quotas measures what the links of an index name, by owner, and keeps owners
// within quotas. An owner over its quota loses its links, the least recently
// used first, until it has nine tenths of the quota. Content that no link of
// another owner names is removed with them. The room that running fills have
// reserved counts as well. A quota may be exceeded for the duration of a fill
// and a round. A day after content has gone for another reason, its links and
// refs are forgotten.
type Quotas struct {
	cache  *Cache
	index  *index.Index
	limits map[string]int64
	uses   uses
	kick   chan struct{} // a round is wanted now
	full   chan struct{} // uses are to be written down now

	swept time.Time // when refs were last looked at

	mu     sync.Mutex
	totals map[string]Total
	added  map[string]int64       // bytes since then, at most
	coming map[string]int64       // bytes that fills under way have room for
	purged map[digest.Digest]bool // content that may have no link any more
	making map[string]bool        // owners that have lost links for what was coming
}

// NewQuotas returns the quotas of the owners of an index over a cache. Limits
// are in bytes by owner. They are kept while Keep runs.
func NewQuotas(cache *Cache, x *index.Index, limits map[string]int64) *Quotas {
	return &Quotas{
		cache: cache, index: x, limits: maps.Clone(limits),
		kick: make(chan struct{}, 1), full: make(chan struct{}, 1),
		added: make(map[string]int64), coming: make(map[string]int64), purged: make(map[digest.Digest]bool),
		making: make(map[string]bool),
	}
}

// Totals returns what owners have, as last measured, or nil before the first
// measurement.
func (q *Quotas) Totals() map[string]Total {
	q.mu.Lock()
	defer q.mu.Unlock()
	return maps.Clone(q.totals)
}

// Limit returns the size in bytes above which content exceeds a quota that
// applies to the scope, or 0 if none does. It is meant for [fill.Request.Limit].
func (q *Quotas) Limit(scope string) (limit int64) {
	if len(q.limits) == 0 {
		return 0
	}
	index.Owners(scope, func(owner string) bool {
		if quota := q.limits[owner]; quota > 0 && (limit == 0 || quota < limit) {
			limit = quota
		}
		return true
	})
	return limit
}

// Used records that content of a scope was requested and, if it is compound,
// its children too. The use is written down later, so a pull costs no disk
// write.
func (q *Quotas) Used(scope string, d digest.Digest, compound bool) {
	if q.Limit(scope) > 0 && q.uses.add(item{scope, d}, compound) {
		wake(q.full)
	}
}

// Reserve counts bytes that a fill of the scope is about to take, or gives back
// if bytes is negative. It returns false, and counts nothing, if the running
// fills of one of the scope's owners would then exceed its whole quota. It is
// meant for [fill.Request.Reserve].
func (q *Quotas) Reserve(scope string, bytes int64) (ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	ok = true
	index.Owners(scope, func(owner string) bool {
		quota := q.limits[owner]
		ok = quota <= 0 || bytes <= 0 || q.coming[owner]+bytes <= quota
		return ok
	})
	if !ok {
		return false
	}
	index.Owners(scope, func(owner string) bool {
		if q.limits[owner] > 0 {
			if q.coming[owner] += bytes; q.coming[owner] == 0 {
				delete(q.coming, owner)
			}
			if bytes > 0 {
				q.wakeIfOver(owner)
			}
		}
		return true
	})
	return true
}

// Added records that a scope may have more content, of this size in bytes.
// Owners that may be over their quota are measured again.
func (q *Quotas) Added(scope string, size int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	index.Owners(scope, func(owner string) bool {
		if q.limits[owner] > 0 {
			q.added[owner] += max(size, 0)
			q.wakeIfOver(owner)
			if q.making[owner] {
				// The content that links were removed for has been stored.
				delete(q.making, owner)
				wake(q.kick)
			}
		}
		return true
	})
}

// wakeIfOver requests a round if an owner may be over its quota with what
// running fills will add. The caller holds mu.
func (q *Quotas) wakeIfOver(owner string) {
	if q.totals[owner].Bytes+q.added[owner]+q.coming[owner] > q.limits[owner] {
		wake(q.kick)
	}
}

// Keep measures the owners soon, at intervals, and when one may be over its
// quota, until ctx ends. Then it writes the last uses down.
func (q *Quotas) Keep(ctx context.Context) {
	defer q.index.LimitOwners(q.limits)()
	var learning sync.WaitGroup
	defer learning.Wait()
	learning.Go(func() { q.index.KeepPurges(ctx, q.LearnPurges) })
	defer func() { q.writeUses(context.WithoutCancel(ctx)) }()
	for wait := quotaDelay; q.await(ctx, wait); {
		begin := time.Now()
		pending, err := q.round(ctx)
		if err != nil && ctx.Err() == nil {
			q.cache.storageError("measure owners", err)
		}
		took := time.Since(begin)
		if !store.Pause(ctx, max(quotaRest, quotaRestShare*took)) {
			return
		}
		if wait = max(quotaInterval, quotaShare*took); pending {
			wait = quotaPending
		}
	}
}

// await waits for a time or until a round is requested. It reports whether ctx
// has not ended meanwhile.
func (q *Quotas) await(ctx context.Context, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-q.full:
			q.writeUses(ctx)
		case <-q.kick:
			return true
		case <-timer.C:
			return true
		}
	}
}

// round measures all owners, trims those over their quota, and measures again.
// It reports whether more content is about to be stored.
func (q *Quotas) round(ctx context.Context) (pending bool, err error) {
	q.writeUses(ctx)
	q.cache.evictor.writeUses(ctx) // what was just pulled is not in use for ever
	if err := q.dropPurged(ctx); err != nil {
		return false, err
	}
	m, err := q.measure(ctx)
	if err != nil {
		return false, err
	}
	if len(m.over) > 0 {
		if err := q.trim(ctx, m); err != nil {
			return false, err
		}
		if m, err = q.measure(ctx); err != nil {
			return false, err
		}
	}
	return m.pending || q.unfinished(), q.forget(ctx, m)
}

// writeUses marks the links that were used since the last call.
func (q *Quotas) writeUses(ctx context.Context) {
	tree := func(d digest.Digest) []node { return q.cache.evictor.tree(ctx, d) }
	if err := writeDown(spread(q.uses.take(), tree), func(use dated) error {
		return q.index.MarkLink(ctx, use.scope, use.digest, use.at)
	}); err != nil {
		q.cache.storageError("record an owner's use", err)
	}
}
