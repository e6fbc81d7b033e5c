package fill

import (
	"cmp"
	"iter"
	"math"
	"slices"
)

// segment is a part of the content that one worker fetches, from off to end.
// The bytes from off to at are in the spool. It is guarded by the spool's lock,
// but the worker that holds it may read at and end without it.
type segment struct {
	off, at, end int64
	held         bool // by a worker
}

// segments are the segments of a spool, in order and without overlap. No byte
// is in two of them, so no byte is fetched or written twice: readers get
// exactly the bytes that are hashed.
type segments []*segment

// unbounded is the end of content of unknown size.
const unbounded = math.MaxInt64

// gaps yields the ranges below limit that are in no segment, the lowest first.
func (p segments) gaps(limit int64) iter.Seq2[int64, int64] {
	return func(yield func(from, to int64) bool) {
		from := int64(0)
		for _, seg := range p {
			if from < seg.off && !yield(from, seg.off) {
				return
			}
			from = seg.end
		}
		if from < limit {
			yield(from, limit)
		}
	}
}

// left returns the number of bytes below limit that are in no segment.
func (p segments) left(limit int64) (n int64) {
	for from, to := range p.gaps(limit) {
		n += to - from
	}
	return n
}

// hold gives a gap, or a part of one, to a worker. It extends the segment
// before it if that is complete.
func (p *segments) hold(from, to int64) *segment {
	i, _ := slices.BinarySearchFunc(*p, from, func(seg *segment, off int64) int { return cmp.Compare(seg.off, off) })
	if i > 0 {
		if before := (*p)[i-1]; before.end == from && !before.held {
			before.end, before.held = to, true
			return before
		}
	}
	seg := &segment{off: from, at: from, end: to, held: true}
	*p = slices.Insert(*p, i, seg)
	return seg
}

// release takes a segment from its worker. The part that is missing becomes a
// gap. A complete segment is merged with the next one.
func (p *segments) release(seg *segment) {
	seg.held, seg.end = false, seg.at
	i := slices.Index(*p, seg)
	if seg.at == seg.off {
		*p = slices.Delete(*p, i, i+1)
		return
	}
	if i+1 < len(*p) && (*p)[i+1].off == seg.end {
		(*p)[i+1].off = seg.off
		*p = slices.Delete(*p, i, i+1)
	}
}

// has returns the number of bytes that are there from off on.
func (p segments) has(off int64) int64 {
	for _, seg := range p {
		if seg.off <= off && off < seg.at {
			return seg.at - off
		}
	}
	return 0
}
