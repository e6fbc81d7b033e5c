package blobcache

import (
	"context"
	"maps"

	"github.com/opencontainers/go-digest"
)

// Purge removes all links and refs of an owner and of the owners below it, and
// returns the number of links. From then on its sources are asked again. The
// next round removes the content that no other link names.
func (q *Quotas) Purge(ctx context.Context, owner string) (links int, err error) {
	return q.purge(ctx, owner)
}

// PurgeScope is like Purge for a single scope.
func (q *Quotas) PurgeScope(ctx context.Context, scope string) (links int, err error) {
	return q.purge(ctx, scope+"/_")
}

func (q *Quotas) purge(ctx context.Context, prefix string) (links int, err error) {
	lost := make(map[digest.Digest]bool)
	defer func() {
		if q.dropLater(lost); len(lost) > 0 {
			wake(q.kick)
		}
	}()
	return q.index.Purge(ctx, prefix, func(d digest.Digest) { lost[d] = true })
}

// dropLater makes the next round look at content that may not have a link any
// more.
func (q *Quotas) dropLater(lost map[digest.Digest]bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	maps.Copy(q.purged, lost)
}

// unfinished reports whether there is content of dropLater that dropPurged has yet to
// remove.
func (q *Quotas) unfinished() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.purged) > 0
}

// dropPurged removes the content of dropLater, except for content that a link names.
func (q *Quotas) dropPurged(ctx context.Context) error {
	q.mu.Lock()
	lost := q.purged
	q.purged = make(map[digest.Digest]bool)
	q.mu.Unlock()
	if len(lost) == 0 {
		return nil
	}
	t := &trimming{
		quotas: q, ctx: ctx, began: q.cache.evictor.clock.now(), lost: lost,
		wanted: make(map[sum]bool, len(lost)), named: make(map[sum]bool), why: ReasonPurge,
	}
	for d := range lost {
		t.wanted[sumOf(d)] = true
	}
	if err := q.index.EachLink(ctx, t.visit); err != nil {
		q.dropLater(lost)
		return err
	}
	t.dropUnnamed()
	return nil
}

// LearnPurges removes here what other processes that share the index have purged: links and
// refs before it returns, and soon after it the content that no other link names.
func (q *Quotas) LearnPurges(ctx context.Context) {
	lost := make(map[digest.Digest]bool)
	if err := q.index.LearnPurges(ctx, func(d digest.Digest) { lost[d] = true }); err != nil && ctx.Err() == nil {
		q.cache.storageError("learn what other nodes have purged", err)
	}
	if q.dropLater(lost); len(lost) > 0 {
		wake(q.kick)
	}
}
