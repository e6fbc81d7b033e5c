package blobcache

import (
	"context"
	"maps"

	"github.com/opencontainers/go-digest"
)

// Purge forgets what an owner has, its parts included, and returns how many
// links that were. From then on its sources are asked again for all of it. The
// content that nobody else's link names is removed in the next round.
func (q *Quotas) Purge(ctx context.Context, owner string) (links int, err error) {
	return q.purge(ctx, owner)
}

// PurgeScope is a Purge of a single scope.
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

// dropLater has the next round look at content that may be nobody's any more.
func (q *Quotas) dropLater(lost map[digest.Digest]bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	maps.Copy(q.purged, lost)
}

// unfinished tells whether there is such content.
func (q *Quotas) unfinished() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.purged) > 0
}

// dropPurged removes the content that has been purged and that no link names.
func (q *Quotas) dropPurged(ctx context.Context) error {
	q.mu.Lock()
	lost := q.purged
	q.purged = make(map[digest.Digest]bool)
	q.mu.Unlock()
	if len(lost) == 0 {
		return nil
	}
	t := &trimming{
		Quotas: q, ctx: ctx, began: q.cache.keeper.clock.now(), lost: lost,
		wanted: make(map[sum]bool, len(lost)), named: make(map[sum]bool),
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
