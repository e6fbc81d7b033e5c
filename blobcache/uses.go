package blobcache

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

const (
	// usesLimit and rootsLimit are the numbers of uses, and of uses of compound
	// content, that are kept in memory (some 16 MiB) before they are written
	// down early.
	usesLimit  = 64 << 10
	rootsLimit = 4 << 10

	// pullSpan is the longest time in one pull between the use of a manifest
	// and the use of its children.
	pullSpan = time.Hour

	// childLead is how much earlier than its children compound content is
	// recorded as used, so that it is evicted first and content never loses a
	// child while it is stored itself. Every file system stores whole seconds.
	childLead = 2 * time.Second
)

// item is content itself or, with a scope, the scope's link to it.
type item struct {
	scope  string // empty for the content itself
	digest digest.Digest
}

// use records when an item was last requested.
type use struct {
	at       time.Time
	compound bool // the item may have parts, which count as used too
}

// uses keeps the latest uses in memory until they are written down, so that a
// pull costs no disk write.
type uses struct {
	mu    sync.Mutex
	last  map[item]use
	roots []item // the compound ones, in the order of their first use
	taken int    // number of roots that take has removed so far
}

// add records a use now. It reports whether the uses should be written down.
func (u *uses) add(it item, compound bool) (full bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.last == nil {
		u.last = make(map[item]use)
	}
	old := u.last[it]
	u.last[it] = use{time.Now(), compound || old.compound}
	if compound && !old.compound {
		u.roots = append(u.roots, it)
	}
	return len(u.last) >= usesLimit || len(u.roots) >= rootsLimit
}

func (u *uses) has(it item) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	_, ok := u.last[it]
	return ok
}

// rootsFrom returns the uses of compound content since the call that returned
// `from` as next, without those that take has removed. The first call passes 0.
func (u *uses) rootsFrom(from int) (roots []item, next int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	known := min(max(from-u.taken, 0), len(u.roots))
	return slices.Clone(u.roots[known:]), u.taken + len(u.roots)
}

// take removes and returns all uses.
func (u *uses) take() map[item]use {
	u.mu.Lock()
	defer u.mu.Unlock()
	last := u.last
	u.taken += len(u.roots)
	u.last, u.roots = nil, nil
	return last
}

// dated is an item with the time of use to be written down.
type dated struct {
	item
	at     time.Time
	height int // of the tree below it
}

// spread computes the times to write down, children before the content that
// names them. A whole tree gets the time of its root's use, including children
// that the same pull requested a little later. A child of several trees gets
// the latest time.
func spread(taken map[item]use, tree func(digest.Digest) []node) []dated {
	trees := make(map[item][]item)
	heights := make(map[item]int)
	inner := make(map[item]bool) // roots that another one's pull has used
	for root, u := range taken {
		if !u.compound {
			continue
		}
		for _, n := range tree(root.digest) {
			part := item{root.scope, n.digest}
			trees[root] = append(trees[root], part)
			heights[part] = max(heights[part], n.height)
			if other, ok := taken[part]; ok && part != root && other.compound && inPull(u.at, other.at) {
				inner[part] = true
			}
		}
	}
	times := make(map[item]time.Time)
	for root, parts := range trees {
		if inner[root] {
			continue
		}
		for _, part := range parts {
			if at := taken[root].at; at.After(times[part]) {
				times[part] = at
			}
		}
	}
	for it, u := range taken {
		if at, ok := times[it]; !ok || !inPull(at, u.at) && u.at.After(at) {
			times[it] = u.at
		}
	}
	all := make([]dated, 0, len(times))
	for it, at := range times {
		height := heights[it]
		all = append(all, dated{it, at.Add(-childLead * time.Duration(height)), height})
	}
	slices.SortFunc(all, func(a, b dated) int { return cmp.Compare(a.height, b.height) })
	return all
}

// writeDown calls mark for all uses, with rests in between, and returns the
// first error. One use that cannot be marked does not lose the others; after
// evictErrors failures in a row writeDown gives up.
func writeDown(uses []dated, mark func(dated) error) (first error) {
	mark = store.Paced(context.Background(), store.WalkStride, mark) // also after the cache's context has ended
	failures := 0
	for _, use := range uses {
		err := mark(use)
		if err == nil {
			failures = 0
			continue
		}
		if first == nil {
			first = err
		}
		if failures++; failures >= evictErrors {
			break
		}
	}
	return first
}

// inPull reports whether a use at time part can belong to the pull that used
// the manifest at time root.
func inPull(root, part time.Time) bool { return part.Sub(root) <= pullSpan }

// used records that content was requested and, if it is compound, its children
// too. The use is written down later.
func (k *evictor) used(d digest.Digest, compound bool) {
	if k.uses.add(item{digest: d}, compound) {
		wake(k.full)
	}
}

// read records that stored content is being read, until the caller calls done.
func (k *evictor) read(d digest.Digest) (done func()) {
	k.used(d, false)
	k.mu.Lock()
	k.reading[d]++
	k.mu.Unlock()
	return sync.OnceFunc(func() {
		k.used(d, false)
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.reading[d]--; k.reading[d] == 0 {
			delete(k.reading, d)
		}
	})
}

// busy reports whether content is being read, or was used since uses were last
// written down.
func (k *evictor) busy(d digest.Digest) bool {
	k.mu.Lock()
	reading := k.reading[d] > 0
	k.mu.Unlock()
	return reading || k.uses.has(item{digest: d})
}

// writeUses writes down the uses since the last call.
func (k *evictor) writeUses(ctx context.Context) {
	k.writing.Lock()
	defer k.writing.Unlock()
	tree := func(d digest.Digest) []node { return k.tree(ctx, d) }
	if err := writeDown(spread(k.uses.take(), tree), func(use dated) error {
		return k.blobs.Touch(ctx, use.digest, use.at)
	}); err != nil {
		k.hooks.storageError("record a use", err)
	}
}
