package blobcache

import (
	"cmp"
	"container/heap"
	"context"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

const (
	// sweepVictims is the number of entries that a sweep holds in memory, some
	// 10 MiB. After removing them it walks again.
	sweepVictims = 64 << 10

	// A sweep of a full disk removes sweepAhead bytes more than are missing, or
	// 1/sweepAheadShare of all content if that is less.
	sweepAhead      = 1 << 30
	sweepAheadShare = 64

	// starvedShare: 1/starvedShare of all content is removed if the disk is
	// full although it has free bytes.
	starvedShare = 64

	// futureSlack is how far in the future a time of use may be before it is
	// corrected.
	futureSlack = time.Hour
)

// sweep removes content that has not been used for too long, and the least
// recently used content until the limits hold. It is stuck if content should
// have been removed and none could be.
func (k *evictor) sweep(ctx context.Context) (stuck bool, err error) {
	defer k.announceSwept()
	k.writeUses(ctx)
	for round := 1; ; round++ {
		k.mu.Lock()
		before, counted := k.stored, k.entries
		k.mu.Unlock()
		short := k.isShort(ctx)
		s, err := k.survey(ctx, k.excess(ctx, before))
		if err != nil {
			return false, err
		}
		if excess := k.excess(ctx, s.total); excess > s.excess {
			// The total was not known before, for example at the start.
			if s, err = k.survey(ctx, excess); err != nil {
				return false, err
			}
		} else if !s.partial {
			s.excess = excess // there was less: another process has swept, perhaps
		}
		k.mu.Lock()
		if k.starved = false; !s.partial || s.total > before {
			k.stored += s.total - before // what came or went meanwhile counts on top
			k.entries += s.entries - counted
		}
		k.walked = k.walked || !s.partial
		k.mu.Unlock()
		removed := k.evict(ctx, s)
		if short && s.held > 0 && removed < s.excess {
			removed += k.evictHeld(ctx, s.excess-removed)
		}
		if !s.more || removed == 0 || ctx.Err() != nil {
			return round == 1 && removed == 0 && s.excess > 0, ctx.Err()
		}
	}
}

// announceSwept wakes the fills that wait for room.
func (k *evictor) announceSwept() {
	k.mu.Lock()
	defer k.mu.Unlock()
	close(k.swept)
	k.swept = make(chan struct{})
}

// excess returns how many of total stored bytes must be removed.
func (k *evictor) excess(ctx context.Context, total int64) int64 {
	disk := k.disk(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	var excess int64
	needed := k.reserved + k.wanted
	if k.limits.MaxSize > 0 && total+needed > k.high() {
		excess = total + needed - k.low()
	}
	if missing := k.coming(disk.written) + k.wanted - disk.spare; disk.kept && missing > 0 {
		// A fill reserves room in steps; not every step should cause a walk.
		excess = max(excess, missing+min(total/sweepAheadShare, sweepAhead))
	}
	if k.starved {
		excess = max(excess, total/starvedShare, 1)
	}
	return excess
}

// survey is the result of a walk: the total size, and the entries to remove.
// These are the least recently used of at least excess bytes, and those that
// have not been used for too long.
type survey struct {
	excess, total int64
	entries       int
	victims       byUse
	chosen        int64 // bytes of the victims
	more          bool  // there were too many victims for one walk
	partial       bool  // the walk could not see all content
	aged          time.Time

	removable func(digest.Digest) bool // nil if all content is
	held      int64                    // bytes of the entries that are not removable
	lossy     bool                     // the victims have no copy
}

func (k *evictor) survey(ctx context.Context, excess int64) (*survey, error) {
	return k.surveyOf(ctx, excess, k.removable(ctx))
}

func (k *evictor) surveyOf(ctx context.Context, excess int64, removable func(digest.Digest) bool) (*survey, error) {
	now := k.clock.now()
	s := &survey{excess: excess, removable: removable}
	trusted := k.clock.trusted()
	if k.limits.UnusedFor > 0 && trusted {
		s.aged = now.Add(-k.limits.UnusedFor)
	}
	err := k.blobs.Walk(ctx, store.Paced(ctx, store.WalkStride, func(e store.Entry) error {
		s.total += e.Size
		s.entries++
		if e.Used.After(now) {
			// The clock was wrong when the use was recorded, or is wrong now.
			if trusted && time.Until(e.Used) > futureSlack {
				_ = k.blobs.Touch(ctx, e.Digest, now)
			}
			e.Used = now
		}
		s.consider(e)
		return nil
	}))
	if err != nil && ctx.Err() == nil {
		// The content that can be seen is kept within the limits all the same.
		k.hooks.storageError("walk", err)
		s.partial, err = true, nil
	}
	return s, err
}

func (s *survey) tooOld(e store.Entry) bool { return e.Used.Before(s.aged) }

func (s *survey) consider(e store.Entry) {
	if s.excess <= 0 && !s.tooOld(e) {
		return
	}
	if len(s.victims) > 0 && s.chosen >= s.excess && !s.tooOld(e) && !e.Used.Before(s.victims[0].Used) {
		return // the most frequent case: there are enough older ones
	}
	if s.removable != nil && !s.removable(e.Digest) {
		s.held += e.Size
		return
	}
	heap.Push(&s.victims, e)
	s.chosen += e.Size
	// Drop the most recently used victim as long as the others are enough.
	for len(s.victims) > 0 {
		youngest := s.victims[0]
		tooMany := len(s.victims) > sweepVictims
		if !tooMany && (s.chosen-youngest.Size < s.excess || s.tooOld(youngest)) {
			return
		}
		s.more = s.more || tooMany
		heap.Pop(&s.victims)
		s.chosen -= youngest.Size
	}
}

// eviction removes the victims of a survey.
type eviction struct {
	of      *evictor
	removed int64
	gone    map[digest.Digest]bool
	spared  map[digest.Digest]bool // parts of what was used since the survey
	roots   int                    // number of uses whose parts are in spared
	errors  int
	why     Reason

	removable func(digest.Digest) bool // nil if all content is
}

// evictErrors is the number of failures in a row after which nothing can be
// removed at all.
const evictErrors = 10

// evict removes entries, the least recently used first and each with its
// children, until neither excess nor old content is left. Content that was used
// since the survey stays.
func (k *evictor) evict(ctx context.Context, s *survey) (removed int64) {
	slices.SortFunc(s.victims, func(a, b store.Entry) int { return a.Used.Compare(b.Used) })
	v := &eviction{of: k, gone: make(map[digest.Digest]bool), spared: make(map[digest.Digest]bool), removable: s.removable}
	for _, e := range s.victims {
		if ctx.Err() != nil || v.errors >= evictErrors || v.removed >= s.excess && !s.tooOld(e) {
			break
		}
		if v.why = ReasonSize; s.tooOld(e) {
			v.why = ReasonUnused
		}
		if s.lossy {
			v.why = ReasonLost
		}
		v.image(ctx, e)
	}
	return v.removed
}

// image removes an entry and those of its children that no later use of their
// own protects, so that an image is removed as a whole.
func (v *eviction) image(ctx context.Context, e store.Entry) {
	var tree []node
	if v.of.limits.Children != nil && e.Size <= treeContentSize {
		tree = v.of.tree(ctx, e.Digest)
	}
	if !v.one(ctx, e) || len(tree) < 2 {
		return
	}
	last := latest(e, tree)
	slices.SortFunc(tree, func(a, b node) int { return cmp.Compare(b.height, a.height) })
	for _, n := range tree {
		part, err := v.of.blobs.Stat(ctx, n.digest)
		if err == nil && !part.Used.After(last) {
			v.one(ctx, part)
		}
	}
}

func (v *eviction) one(ctx context.Context, e store.Entry) (ok bool) {
	v.of.writing.Lock()
	defer v.of.writing.Unlock()
	var roots []item
	roots, v.roots = v.of.uses.rootsFrom(v.roots)
	for _, root := range roots {
		for _, n := range v.of.tree(ctx, root.digest) {
			v.spared[n.digest] = true
		}
	}
	if v.removable != nil && !v.removable(e.Digest) {
		return false
	}
	if v.gone[e.Digest] || v.spared[e.Digest] || v.of.busy(e.Digest) || v.of.usedSince(ctx, e) {
		return false
	}
	if err := v.of.drop(ctx, e.Digest, e.Size); err != nil {
		v.errors++
		v.of.hooks.storageError("evict", err)
		return false
	}
	v.errors = 0
	v.gone[e.Digest] = true
	v.removed += e.Size
	v.of.reportEvicted(e, v.why)
	return true
}

// usedSince reports whether a use has been written down since the walk, by this
// or another process. A time in the future does not count.
func (k *evictor) usedSince(ctx context.Context, e store.Entry) bool {
	now, err := k.blobs.Stat(ctx, e.Digest)
	return err == nil && now.Used.After(e.Used) && time.Until(now.Used) <= futureSlack
}

// byUse is a heap with the most recently used entry on top.
type byUse []store.Entry

func (b byUse) Len() int           { return len(b) }
func (b byUse) Less(i, j int) bool { return b[i].Used.After(b[j].Used) }
func (b byUse) Swap(i, j int)      { b[i], b[j] = b[j], b[i] }
func (b *byUse) Push(e any)        { *b = append(*b, e.(store.Entry)) }
func (b *byUse) Pop() any {
	last := len(*b) - 1
	e := (*b)[last]
	*b = (*b)[:last]
	return e
}
