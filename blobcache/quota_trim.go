package blobcache

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
)

// trimming is a walk over all links that removes those of owners over their
// quota, and finds out what other links name.
type trimming struct {
	*Quotas
	ctx    context.Context
	began  time.Time // of the measure
	over   map[string]victims
	wanted map[sum]bool // by any of them
	named  map[sum]bool // by a link that stays
	lost   map[digest.Digest]bool
	links  map[string]int           // removed, by owner
	freed  map[string]map[sum]int64 // sizes of what they were of
	spared map[item]bool            // what was used since the measure
	roots  int                      // whose parts are in spared
}

// trim removes links, and then the content that nobody's link names any more.
// A link that comes meanwhile may lose its content all the same, which costs a
// fetch.
func (q *Quotas) trim(ctx context.Context, m *measurement) error {
	t := &trimming{
		Quotas: q, ctx: ctx, began: m.began, over: m.over,
		wanted: make(map[sum]bool), named: make(map[sum]bool), lost: make(map[digest.Digest]bool),
		links: make(map[string]int), freed: make(map[string]map[sum]int64), spared: make(map[item]bool),
	}
	for _, chosen := range m.over {
		for key := range chosen {
			t.wanted[key] = true
		}
	}
	if err := q.index.EachLink(ctx, t.visit); err != nil {
		return err
	}
	t.dropUnnamed()
	for owner, n := range t.links {
		var size int64
		for _, s := range t.freed[owner] {
			size += s
		}
		if q.cache.hooks.Trimmed != nil {
			q.cache.hooks.Trimmed(owner, n, size)
		}
	}
	return nil
}

func (t *trimming) visit(l index.Linked) error {
	scope, d := l.Scope, l.Digest
	key := sumOf(d)
	if !t.wanted[key] {
		return nil
	}
	owner, h, doomed := t.loser(scope, key)
	// A link that was saved or marked since has been used since.
	if !doomed || l.Used.UnixNano() > h.used || t.usedSince(item{scope, d}) {
		t.named[key] = true
		return nil
	}
	if err := t.index.DropLink(t.ctx, scope, d); err != nil {
		t.named[key] = true
		t.cache.trouble("remove a link", err)
		return nil
	}
	t.lost[d] = true
	t.links[owner]++
	if t.freed[owner] == nil {
		t.freed[owner] = make(map[sum]int64)
	}
	t.freed[owner][key] = h.size
	return nil
}

// loser is the owner of a scope, or one that it is a part of, that is to lose
// some content.
func (t *trimming) loser(scope string, key sum) (loser string, h holding, ok bool) {
	index.Owners(scope, func(owner string) bool {
		h, ok = t.over[owner][key]
		loser = owner
		return !ok
	})
	return loser, h, ok
}

func (t *trimming) usedSince(it item) bool {
	var roots []item
	roots, t.roots = t.uses.rootsFrom(t.roots)
	for _, root := range roots {
		for _, n := range t.cache.keeper.tree(t.ctx, root.digest) {
			t.spared[item{root.scope, n.digest}] = true
		}
	}
	return t.spared[it] || t.uses.has(it)
}

// dropUnnamed removes the content that has lost a link and that none names. What
// must stay for now, since it is in use, or still on its way, is left to the next
// round: without a link nothing else would ever look at it.
func (t *trimming) dropUnnamed() {
	later := make(map[digest.Digest]bool)
	for d := range t.lost {
		if !t.named[sumOf(d)] && !t.dropNow(d) {
			later[d] = true
		}
	}
	t.dropLater(later)
}

func (t *trimming) dropNow(d digest.Digest) (done bool) {
	k := t.cache.keeper
	k.writing.Lock()
	defer k.writing.Unlock()
	if t.ctx.Err() != nil || t.cache.filling(d) || k.busy(d) {
		return false
	}
	e, err := k.blobs.Stat(t.ctx, d)
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	if err != nil || e.Used.After(t.began) {
		return false
	}
	if err := k.drop(t.ctx, d, e.Size); err != nil {
		t.cache.trouble("remove what nobody has any more", err)
		return false
	}
	k.tellEvicted(e)
	return true
}
