package fill

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestExtents compares extents with a model that knows the state of each byte.
func TestExtents(t *testing.T) {
	const size = 60
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var e extents
		var has, blocks [size]bool
		for range 12 {
			from := rnd.Int64N(size)
			to := from + rnd.Int64N(size-from) + 1
			taken := rnd.IntN(2) == 0
			var want, got []int64
			for off := from; off < to; off++ {
				if !has[off] {
					want = append(want, off)
				}
			}
			for _, gap := range e.gaps(from, to) {
				for off := gap.from; off < gap.to; off++ {
					got = append(got, off)
					has[off], blocks[off] = true, taken
				}
				gap.blocks = taken
				e.add(gap)
			}
			if !slices.Equal(got, want) {
				t.Fatalf("seed %d: gaps from %d to %d are %v, want %v", seed, from, to, got, want)
			}
			var bare int64
			for off := from; off < to; off++ {
				if !blocks[off] {
					bare++
				}
			}
			if got := e.bare(from, to); got != bare {
				t.Fatalf("seed %d: %d bytes from %d to %d have no blocks, want %d", seed, got, from, to, bare)
			}
		}
		for i := 1; i < len(e); i++ {
			if e[i-1].to > e[i].from || e[i-1].to == e[i].from && e[i-1].blocks == e[i].blocks {
				t.Fatalf("seed %d: neighbours %v and %v", seed, e[i-1], e[i])
			}
		}
	}
}
