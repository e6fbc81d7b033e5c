package blobcache

import (
	"cmp"
	"slices"
)

// extent is a stretch of a spool that has room of its own: from one offset to
// another.
type extent struct {
	from, to int64
	blocks   bool // the disk's blocks for it have been taken
}

// extents are a spool's, in order and without overlap.
type extents []extent

// gaps returns the stretches between two offsets that no extent has.
func (e extents) gaps(from, to int64) (gaps []extent) {
	for _, x := range e {
		if x.to <= from {
			continue
		}
		if x.from >= to {
			break
		}
		if from < x.from {
			gaps = append(gaps, extent{from: from, to: x.from})
		}
		from = x.to
	}
	if from < to {
		gaps = append(gaps, extent{from: from, to: to})
	}
	return gaps
}

// add adds what was a gap. Neighbours become one.
func (e *extents) add(x extent) {
	i, _ := slices.BinarySearchFunc(*e, x.from, func(x extent, from int64) int { return cmp.Compare(x.from, from) })
	list := slices.Insert(*e, i, x)
	for _, at := range []int{i, i - 1} {
		if at >= 0 && at+1 < len(list) && list[at].to == list[at+1].from && list[at].blocks == list[at+1].blocks {
			list[at].to = list[at+1].to
			list = slices.Delete(list, at+1, at+2)
		}
	}
	*e = list
}

// bare is how many bytes between two offsets have no blocks yet.
func (e extents) bare(from, to int64) int64 {
	n := to - from
	for _, x := range e {
		if x.blocks {
			n -= max(min(x.to, to)-max(x.from, from), 0)
		}
	}
	return n
}

func length(list []extent) (n int64) {
	for _, x := range list {
		n += x.to - x.from
	}
	return n
}
