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
	// usesLimit and rootsLimit are how many uses, and of those how many of
	// compound content, are remembered before they are written down early:
	// some 16 MiB.
	usesLimit  = 64 << 10
	rootsLimit = 4 << 10

	// pullSpan is how long one pull may last from the use of what names a part
	// to that of the part.
	pullSpan = time.Hour

	// partLead is how much earlier than its parts content is said to have been
	// used: so it is always the first of them to go, and what has lost a part
	// is never what is left. Whole seconds survive on any disk.
	partLead = 2 * time.Second
)

// item is content, or what the links of a scope say of it.
type item struct {
	scope  string // empty for the content itself
	digest digest.Digest
}

// use is when an item was last asked for.
type use struct {
	at       time.Time
	compound bool // and it may have parts, which have been used as well
}

// uses are remembered until they are written down, so that a pull costs no
// write.
type uses struct {
	mu    sync.Mutex
	last  map[item]use
	roots []item // the compound ones, in the order of their first use
	taken int    // roots before these
}

// add remembers a use that happens now, and tells whether it is time to write
// them down.
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

// rootsFrom returns the compound uses since an earlier call returned next, as
// far as they have not been taken; 0 is before all.
func (u *uses) rootsFrom(from int) (roots []item, next int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	known := min(max(from-u.taken, 0), len(u.roots))
	return slices.Clone(u.roots[known:]), u.taken + len(u.roots)
}

// take returns the uses and forgets them.
func (u *uses) take() map[item]use {
	u.mu.Lock()
	defer u.mu.Unlock()
	last := u.last
	u.taken += len(u.roots)
	u.last, u.roots = nil, nil
	return last
}

// dated is when an item will be said to have been used.
type dated struct {
	item
	at     time.Time
	height int // of the tree below it
}

// spread turns uses into times to write down, parts before what names them. All
// of a tree gets the time of the use of its root, also what was asked for a
// little later by the same pull; a part of several trees, that of the latest.
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
		all = append(all, dated{it, at.Add(-partLead * time.Duration(height)), height})
	}
	slices.SortFunc(all, func(a, b dated) int { return cmp.Compare(a.height, b.height) })
	return all
}

// writeDown calls mark for all uses, resting now and then, and returns the first
// error. It goes on after an error, so that one use that cannot be marked does not
// lose the others, but gives up after evictErrors failures in a row.
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

// inPull tells whether a part that was used at a time may belong to a pull of
// what names it.
func inPull(root, part time.Time) bool { return part.Sub(root) <= pullSpan }
