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
	// sweepVictims is how many entries a sweep holds in memory, some 10 MiB of
	// them, before it removes these and walks again.
	sweepVictims = 64 << 10

	// sweepAhead is how many bytes more than are missing on a full disk go, or
	// such a part of all content if that is less.
	sweepAhead      = 1 << 30
	sweepAheadShare = 64

	// starvedShare is the part of all content that goes when the disk is full
	// for another reason than its bytes.
	starvedShare = 64

	// futureSlack is how far ahead of the clock a time of use may be before it
	// is set right.
	futureSlack = time.Hour
)

// sweep removes what has not been used for too long, and as much of what was
// used least recently as the limits want. It is stuck if something should have
// been removed and nothing could.
func (k *keeper) sweep(ctx context.Context) (stuck bool, err error) {
	defer k.tellSwept()
	k.writeUses(ctx)
	for round := 1; ; round++ {
		k.mu.Lock()
		before := k.stored
		k.mu.Unlock()
		s, err := k.survey(ctx, k.excess(ctx, before))
		if err != nil {
			return false, err
		}
		if excess := k.excess(ctx, s.total); excess > s.excess {
			// There was more than was known, as at the start.
			if s, err = k.survey(ctx, excess); err != nil {
				return false, err
			}
		} else if !s.partial {
			s.excess = excess // there was less: another process has swept, perhaps
		}
		k.mu.Lock()
		if k.starved = false; !s.partial || s.total > before {
			k.stored += s.total - before // what came or went meanwhile counts on top
		}
		k.walked = k.walked || !s.partial
		k.mu.Unlock()
		removed := k.evict(ctx, s)
		if !s.more || removed == 0 || ctx.Err() != nil {
			return round == 1 && removed == 0 && s.excess > 0, ctx.Err()
		}
	}
}

// tellSwept lets those who wait for room look again.
func (k *keeper) tellSwept() {
	k.mu.Lock()
	defer k.mu.Unlock()
	close(k.swept)
	k.swept = make(chan struct{})
}

// excess is how many of total stored bytes have to go.
func (k *keeper) excess(ctx context.Context, total int64) int64 {
	disk := k.disk(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	var excess int64
	needed := k.reserved + k.wanted
	if k.limits.MaxSize > 0 && total+needed > k.high() {
		excess = total + needed - k.low()
	}
	if missing := k.coming(disk.written) + k.wanted - disk.spare; disk.kept && missing > 0 {
		// Content that comes wants room step by step: each must not take a walk.
		excess = max(excess, missing+min(total/sweepAheadShare, sweepAhead))
	}
	if k.starved {
		excess = max(excess, total/starvedShare, 1)
	}
	return excess
}

// survey is what a walk has found: the size of the whole in bytes, and the
// entries that were used longest ago: those of excess bytes, and those that are
// too old.
type survey struct {
	excess, total int64
	victims       byUse
	chosen        int64 // bytes of the victims
	more          bool  // there were too many victims for one walk
	partial       bool  // some of it could not be seen
	aged          time.Time
}

func (k *keeper) survey(ctx context.Context, excess int64) (*survey, error) {
	now := k.clock.now()
	s := &survey{excess: excess}
	trusted := k.clock.trusted()
	if k.limits.UnusedFor > 0 && trusted {
		s.aged = now.Add(-k.limits.UnusedFor)
	}
	err := k.blobs.Walk(ctx, store.Paced(ctx, store.WalkStride, func(e store.Entry) error {
		s.total += e.Size
		if e.Used.After(now) {
			// The clock was wrong then, or it is now.
			if trusted && time.Until(e.Used) > futureSlack {
				_ = k.blobs.Touch(ctx, e.Digest, now)
			}
			e.Used = now
		}
		s.consider(e)
		return nil
	}))
	if err != nil && ctx.Err() == nil {
		// What can be seen is kept within bounds all the same.
		k.hooks.trouble("walk", err)
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
	heap.Push(&s.victims, e)
	s.chosen += e.Size
	// The youngest is let go if the rest is enough.
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

// eviction removes what a survey has chosen.
type eviction struct {
	*keeper
	removed int64
	gone    map[digest.Digest]bool
	spared  map[digest.Digest]bool // parts of what was used since the survey
	roots   int                    // whose parts are in spared
	errors  int
}

// evictErrors is how many failures show that nothing can be removed at all.
const evictErrors = 10

// evict removes entries, the oldest first and each with its parts, until there
// is no excess and nothing too old. What was used meanwhile stays.
func (k *keeper) evict(ctx context.Context, s *survey) (removed int64) {
	slices.SortFunc(s.victims, func(a, b store.Entry) int { return a.Used.Compare(b.Used) })
	v := &eviction{keeper: k, gone: make(map[digest.Digest]bool), spared: make(map[digest.Digest]bool)}
	for _, e := range s.victims {
		if ctx.Err() != nil || v.errors >= evictErrors || v.removed >= s.excess && !s.tooOld(e) {
			break
		}
		v.image(ctx, e)
	}
	return v.removed
}

// image removes an entry, and with it those of its parts that were not used
// later than by itself: so an image goes as a whole.
func (v *eviction) image(ctx context.Context, e store.Entry) {
	var tree []node
	if v.limits.Parts != nil && e.Size <= partsSize {
		tree = v.tree(ctx, e.Digest)
	}
	if !v.one(ctx, e) || len(tree) < 2 {
		return
	}
	last := latest(e, tree)
	slices.SortFunc(tree, func(a, b node) int { return cmp.Compare(b.height, a.height) })
	for _, n := range tree {
		part, err := v.blobs.Stat(ctx, n.digest)
		if err == nil && !part.Used.After(last) {
			v.one(ctx, part)
		}
	}
}

func (v *eviction) one(ctx context.Context, e store.Entry) (ok bool) {
	v.writing.Lock()
	defer v.writing.Unlock()
	var roots []item
	roots, v.roots = v.uses.rootsFrom(v.roots)
	for _, root := range roots {
		for _, n := range v.tree(ctx, root.digest) {
			v.spared[n.digest] = true
		}
	}
	if v.gone[e.Digest] || v.spared[e.Digest] || v.busy(e.Digest) || v.usedSince(ctx, e) {
		return false
	}
	if err := v.drop(ctx, e.Digest, e.Size); err != nil {
		v.errors++
		v.hooks.trouble("evict", err)
		return false
	}
	v.errors = 0
	v.gone[e.Digest] = true
	v.removed += e.Size
	v.tellEvicted(e)
	return true
}

// usedSince tells whether a use has been written down since the walk, by this
// process or another. A time that has not come yet is no use.
func (k *keeper) usedSince(ctx context.Context, e store.Entry) bool {
	now, err := k.blobs.Stat(ctx, e.Digest)
	return err == nil && now.Used.After(e.Used) && time.Until(now.Used) <= futureSlack
}

// byUse is a heap with the entry that was used last on top.
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
