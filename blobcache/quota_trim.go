package blobcache

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
)

// trimming is a walk over all links that removes links of owners over their
// quota, and notes which content other links name.
type trimming struct {
	quotas *Quotas
	ctx    context.Context
	began  time.Time // when the measurement began
	over   map[string]victims
	wanted map[sum]bool // content that is to lose a link
	named  map[sum]bool // content that a remaining link names
	lost   map[digest.Digest]bool
	links  map[string]int           // number of removed links, by owner
	freed  map[string]map[sum]int64 // sizes of the content of these links, by owner
	spared map[item]bool            // items that were used since the measurement
	roots  int                      // number of uses whose parts are in spared
	why    Reason
}

// trim removes links, and then the content that no link names any more. A link
// that is added meanwhile may lose its content, which costs a download.
func (q *Quotas) trim(ctx context.Context, m *measurement) error {
	t := &trimming{
		quotas: q, ctx: ctx, began: m.began, over: m.over,
		wanted: make(map[sum]bool), named: make(map[sum]bool), lost: make(map[digest.Digest]bool),
		links: make(map[string]int), freed: make(map[string]map[sum]int64), spared: make(map[item]bool), why: ReasonQuota,
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
	// A link that was saved or marked since the measurement has been used
	// since.
	if !doomed || l.Used.UnixNano() > h.used || t.usedSince(item{scope, d}) {
		t.named[key] = true
		return nil
	}
	if err := t.quotas.index.DropLink(t.ctx, scope, d); err != nil {
		t.named[key] = true
		t.quotas.cache.storageError("remove a link", err)
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

// loser returns the owner, of those that the scope belongs to, that will lose
// this content.
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
	roots, t.roots = t.quotas.uses.rootsFrom(t.roots)
	for _, root := range roots {
		for _, n := range t.quotas.cache.evictor.tree(t.ctx, root.digest) {
			t.spared[item{root.scope, n.digest}] = true
		}
	}
	return t.spared[it] || t.quotas.uses.has(it)
}

// dropUnnamed removes content that has lost a link and that no other link
// names. Content that is in use or still being stored is left to the next
// round; without a link nothing else would look at it.
func (t *trimming) dropUnnamed() {
	later := make(map[digest.Digest]bool)
	for d := range t.lost {
		if !t.named[sumOf(d)] && !t.dropNow(d) {
			later[d] = true
		}
	}
	t.quotas.dropLater(later)
}

func (t *trimming) dropNow(d digest.Digest) (done bool) {
	k := t.quotas.cache.evictor
	k.writing.Lock()
	defer k.writing.Unlock()
	if t.ctx.Err() != nil || t.quotas.cache.fills.Filling(d) || k.busy(d) {
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
		t.quotas.cache.storageError("remove content without links", err)
		return false
	}
	k.reportEvicted(e, t.why)
	return true
}

const (
	// idleAfter is how long a link, ref or delivery is kept after its content
	// has gone. A request must ask the source again in any case, and records
	// that stayed for ever would fill the disk.
	idleAfter = 24 * time.Hour

	// idleLimit is the number of links that one round forgets at most.
	idleLimit = 16 << 10

	// refsInterval is how often refs and deliveries are checked. Each ref must
	// be read.
	refsInterval = 24 * time.Hour
)

// forget removes the links, refs and deliveries of content that has gone. If no
// content is stored at all, a missing disk is more likely, so nothing is
// forgotten.
func (q *Quotas) forget(ctx context.Context, m *measurement) error {
	stored := 0
	for _, total := range m.totals {
		stored += total.Blobs
	}
	if stored == 0 || !m.trusted {
		return nil
	}
	for _, l := range m.idle {
		if err := q.index.ForgetLink(ctx, l.Scope, l.Digest); err != nil {
			return err
		}
	}
	if m.began.Sub(q.swept) < refsInterval {
		return nil
	}
	q.swept = m.began
	return q.index.Forget(ctx, m.began.Add(-idleAfter), func(d digest.Digest) bool { return q.isGone(ctx, d) })
}

// isGone reports whether content is known not to be stored.
func (q *Quotas) isGone(ctx context.Context, d digest.Digest) bool {
	_, err := q.cache.blobs.Stat(ctx, d)
	return errors.Is(err, fs.ErrNotExist)
}
