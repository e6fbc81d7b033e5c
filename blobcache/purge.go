package blobcache

import (
	"context"
	"encoding/json"
	"io/fs"
	"maps"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
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
	err = q.index.records.List(ctx, linksFolder+"/"+prefix, func(r Record) error {
		_, d, ok := parseLinkKey(r.Key)
		if !ok {
			return nil
		}
		links++
		lost[d] = true
		return q.index.dropLink(ctx, r.Key)
	})
	if err != nil {
		return links, err
	}
	err = q.index.records.List(ctx, refsFolder+"/"+prefix, func(r Record) error { return q.index.dropRef(ctx, r.Key) })
	// What could not be written is in memory alone.
	forgetBelow(q.index.links, linksFolder+"/"+prefix+"/")
	forgetBelow(q.index.refs, refsFolder+"/"+prefix+"/")
	return links, err
}

func forgetBelow[T any](memory *lru.Cache[string, T], prefix string) {
	for _, key := range memory.Keys() {
		if strings.HasPrefix(key, prefix) {
			memory.Remove(key)
		}
	}
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
	if err := q.index.eachLink(ctx, sweepStride, t.visit); err != nil {
		q.dropLater(lost)
		return err
	}
	t.dropUnnamed()
	return nil
}

// Named is what a name in a scope stands for.
type Named struct {
	Scope, Name string
	Ref
	Since time.Time // when that was learnt
}

// EachRef visits what the names in an owner's scopes stand for, its parts
// included, until visit returns an error, which it returns unless it is
// [fs.SkipAll].
func (x *Index) EachRef(ctx context.Context, owner string, visit func(Named) error) error {
	err := x.records.List(ctx, refsFolder+"/"+owner, func(r Record) error {
		rest, name, ok := cutLast(strings.TrimPrefix(r.Key, refsFolder+"/"), "/")
		scope, inScope := strings.CutSuffix(rest, "/_")
		if !ok || !inScope {
			return nil
		}
		named := Named{Scope: scope, Name: name, Since: r.Used}
		data, err := x.records.Load(ctx, r.Key)
		if err != nil || json.Unmarshal(data, &named.Ref) != nil || named.Digest.Validate() != nil {
			return nil // gone meanwhile, or damaged: as good as absent
		}
		return visit(named)
	})
	if err == fs.SkipAll {
		return nil
	}
	return err
}
