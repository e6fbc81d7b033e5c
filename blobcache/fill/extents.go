package fill

import (
	"cmp"
	"slices"
)

// extent is a range of a spool for which room is reserved.
type extent struct {
	from, to int64
	blocks   bool // the disk's blocks for it have been taken
}

// extents are the extents of a spool, in order and without overlap.
type extents []extent

// gaps returns the ranges between two offsets that are in no extent.
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

// add adds a range that was a gap, and merges neighbors.
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

// bare returns the number of bytes between two offsets without allocated
// blocks.
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
