package blobcache

import (
	"container/heap"
	"context"
	"time"
)

// sweepPause is what a walk rests after sweepStride entries, so that a million
// of them take neither the processor nor the disk from pulls.
const (
	sweepStride = 1024
	sweepPause  = 2 * time.Millisecond
)

// sweep removes what has not been used for too long, and as much of what was
// used least recently as the limits want. It holds in memory only what it is
// about to remove.
func (k *keeper) sweep(ctx context.Context) error {
	k.writeUses(ctx)
	k.mu.Lock()
	before := k.stored
	k.mu.Unlock()
	excess := k.excess(ctx, before)
	total, oldest, err := k.survey(ctx, excess)
	if err != nil {
		return err
	}
	if missing := k.excess(ctx, total) - excess; missing > 0 {
		// There was more than was known, as at the start.
		if total, oldest, err = k.survey(ctx, excess+missing); err != nil {
			return err
		}
	}
	removed := k.evict(ctx, oldest, total)

	k.mu.Lock()
	defer k.mu.Unlock()
	// What was stored or removed during the walk counts on top of it.
	k.stored += total - before - removed
	close(k.swept)
	k.swept = make(chan struct{})
	return nil
}

// excess is how many of total stored bytes have to go.
func (k *keeper) excess(ctx context.Context, total int64) int64 {
	spare, known := k.spare(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	var excess int64
	if k.limits.MaxSize > 0 && total+k.reserved > k.high() {
		excess = total + k.reserved - k.low()
	}
	if known {
		excess = max(excess, k.reserved-spare)
	}
	return excess
}

// survey walks the shelf and returns the bytes in all, and the entries that
// were used longest ago: those of excess bytes, and those that are too old.
func (k *keeper) survey(ctx context.Context, excess int64) (total int64, oldest byUse, err error) {
	now := time.Now()
	var chosen int64
	visited := 0
	err = k.shelf.Walk(ctx, func(e Entry) error {
		if visited++; visited%sweepStride == 0 {
			select {
			case <-time.After(sweepPause):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		total += e.Size
		if e.Used.After(now) {
			e.Used = now // a clock was wrong
		}
		old := k.limits.UnusedFor > 0 && now.Sub(e.Used) > k.limits.UnusedFor
		if !old && excess <= 0 {
			return nil
		}
		heap.Push(&oldest, e)
		chosen += e.Size
		// The youngest is let go if the rest is enough.
		for len(oldest) > 0 && chosen-oldest[0].Size >= excess && !k.tooOld(oldest[0], now) {
			chosen -= heap.Pop(&oldest).(Entry).Size
		}
		return nil
	})
	return total, oldest, err
}

func (k *keeper) tooOld(e Entry, now time.Time) bool {
	return k.limits.UnusedFor > 0 && now.Sub(e.Used) > k.limits.UnusedFor
}

// evict removes entries, but for those that were used since they were chosen.
func (k *keeper) evict(ctx context.Context, entries byUse, total int64) (removed int64) {
	for _, e := range entries {
		k.mu.Lock()
		_, used := k.uses[e.Digest]
		k.mu.Unlock()
		if used || ctx.Err() != nil {
			continue
		}
		if err := k.shelf.Remove(ctx, e.Digest); err != nil {
			k.hooks.trouble("evict", err)
			continue
		}
		removed += e.Size
		if k.hooks.Evicted != nil {
			k.hooks.Evicted(e, total-removed)
		}
	}
	return removed
}

// byUse is a heap with the entry that was used last on top.
type byUse []Entry

func (b byUse) Len() int           { return len(b) }
func (b byUse) Less(i, j int) bool { return b[i].Used.After(b[j].Used) }
func (b byUse) Swap(i, j int)      { b[i], b[j] = b[j], b[i] }
func (b *byUse) Push(e any)        { *b = append(*b, e.(Entry)) }
func (b *byUse) Pop() any {
	last := len(*b) - 1
	e := (*b)[last]
	*b = (*b)[:last]
	return e
}
