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
	// quotaDelay is how long after the start owners are measured first, which
	// leaves the disk to the sweep and to pulls.
	quotaDelay = 30 * time.Second

	// quotaInterval is how often they are measured where nothing happens, but
	// for those so large that this would be more than a fiftieth of the time.
	quotaInterval = 10 * time.Minute
	quotaShare    = 50

	// quotaPending is the same while content is on its way to an owner with a
	// quota.
	quotaPending = time.Minute

	// quotaRest is the least time between two rounds, and quotaRestShare how
	// many times as long as a round the rest after it is.
	quotaRest      = 5 * time.Second
	quotaRestShare = 10
)

// Total is what an owner's links name of what is stored, its parts included.
type Total struct {
	Bytes    int64 // of each content once, in however many scopes it is
	Blobs    int   // contents
	Measured time.Time
}

// Quotas measure what the links of an index name, owner by owner, and keep
// owners within bounds of their own. An owner over its quota loses its links,
// the least recently used first, down to nine tenths. Content that no other
// owner's link names goes with them. What fills under way have room for counts as
// well. A quota is kept to within a fill and the time of a round: it may be exceeded
// for that long. Links and refs whose
// content has gone for another reason are forgotten after a day.
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
	purged map[digest.Digest]bool // what may be nobody's any more
	making map[string]bool        // owners that have lost links for what was coming
}

// NewQuotas returns the quotas, in bytes by owner, of what an index says of a
// cache. They are kept while Keep runs.
func NewQuotas(cache *Cache, x *index.Index, limits map[string]int64) *Quotas {
	return &Quotas{
		cache: cache, index: x, limits: maps.Clone(limits),
		kick: make(chan struct{}, 1), full: make(chan struct{}, 1),
		added: make(map[string]int64), coming: make(map[string]int64), purged: make(map[digest.Digest]bool),
		making: make(map[string]bool),
	}
}

// Totals are what owners have, as last measured: nil if they have not been yet.
func (q *Quotas) Totals() map[string]Total {
	q.mu.Lock()
	defer q.mu.Unlock()
	return maps.Clone(q.totals)
}

// Limit is the size in bytes above which content does not fit into a quota of
// the scope's, 0 if it has none. It is a Request's Limit.
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

// Used remembers that content of a scope was asked for, and with compound
// content what it names. It is written down later, so that a pull costs no
// write.
func (q *Quotas) Used(scope string, d digest.Digest, compound bool) {
	if q.Limit(scope) > 0 && q.uses.add(item{scope, d}, compound) {
		wake(q.full)
	}
}

// Reserve counts room that a fill of a scope is about to take, or gives back where
// bytes is negative. It returns false, and counts nothing, if the fills under way
// of one of the scope's owners would then have more than its whole quota. It is a
// Request's Reserve.
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
				q.weigh(owner)
			}
		}
		return true
	})
	return true
}

// Added hears of content that a scope has more, or may have. Owners are measured
// anew when one might be over its quota.
func (q *Quotas) Added(scope string, size int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	index.Owners(scope, func(owner string) bool {
		if q.limits[owner] > 0 {
			q.added[owner] += max(size, 0)
			q.weigh(owner)
			if q.making[owner] {
				// What was coming is there, and what has gone for it too.
				delete(q.making, owner)
				wake(q.kick)
			}
		}
		return true
	})
}

// weigh wants a round if an owner might be over its quota with what is coming.
func (q *Quotas) weigh(owner string) {
	if q.totals[owner].Bytes+q.added[owner]+q.coming[owner] > q.limits[owner] {
		wake(q.kick)
	}
}

// Keep measures the owners soon, every so often, and when one may be over its
// quota, until ctx ends. Then it writes the last uses down.
func (q *Quotas) Keep(ctx context.Context) {
	defer func() { q.writeUses(context.WithoutCancel(ctx)) }()
	for wait := quotaDelay; q.await(ctx, wait); {
		begin := time.Now()
		pending, err := q.round(ctx)
		if err != nil && ctx.Err() == nil {
			q.cache.trouble("measure what owners have", err)
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

// await waits for some time, or until a round is wanted, and tells whether ctx
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

// round measures all owners, trims those over their quota, and measures again
// what that has left. It tells whether more is about to be stored.
func (q *Quotas) round(ctx context.Context) (pending bool, err error) {
	q.writeUses(ctx)
	q.cache.keeper.writeUses(ctx) // what was just pulled is not in use for ever
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

// writeUses tells the records what was used since the last time.
func (q *Quotas) writeUses(ctx context.Context) {
	tree := func(d digest.Digest) []node { return q.cache.keeper.tree(ctx, d) }
	if err := writeDown(spread(q.uses.take(), tree), func(use dated) error {
		return q.index.MarkLink(ctx, use.scope, use.digest, use.at)
	}); err != nil {
		q.cache.trouble("record an owner's use", err)
	}
}
