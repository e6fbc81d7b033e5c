package fill

import (
	"math/rand/v2"
	"testing"
)

// TestSegments gives segments to workers and takes them back at random, and compares them with a
// model that knows of each byte whether a worker fetches it and whether it is there.
func TestSegments(t *testing.T) {
	const size = 60
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		var p segments
		var fetched, there [size]bool
		var held []*segment
		for range 200 {
			if len(held) > 0 && rnd.IntN(2) == 0 {
				i := rnd.IntN(len(held))
				seg := held[i]
				for n := rnd.Int64N(seg.end - seg.at + 1); n > 0; n-- {
					there[seg.at] = true
					seg.at++
				}
				if rnd.IntN(2) == 0 {
					for b := seg.at; b < seg.end; b++ {
						fetched[b] = false
					}
					p.release(seg)
					held = append(held[:i], held[i+1:]...)
				}
			} else if from, to, ok := anyGap(p, size, rnd); ok {
				for b := from; b < to; b++ {
					if fetched[b] {
						t.Fatalf("seed %d: byte %d is given out twice", seed, b)
					}
					fetched[b] = true
				}
				held = append(held, p.hold(from, to))
			}
			var left int64
			for b := range int64(size) {
				if !fetched[b] {
					left++
				}
				if n := p.has(b); (n > 0) != there[b] || n > 0 && !there[b+n-1] {
					t.Fatalf("seed %d: of byte %d on there are %d", seed, b, n)
				}
			}
			if p.left(size) != left {
				t.Fatalf("seed %d: %d bytes are left instead of %d", seed, p.left(size), left)
			}
		}
		for _, seg := range held {
			seg.at = seg.end
			p.release(seg)
		}
		for p.left(size) > 0 {
			from, to, _ := anyGap(p, size, rnd)
			seg := p.hold(from, to)
			seg.at = seg.end
			p.release(seg)
		}
		if len(p) != 1 || p.has(0) != size {
			t.Errorf("seed %d: got %d segments when all bytes are there, want 1", seed, len(p))
		}
	}
}

// anyGap returns a random part of one of the gaps, if there are any.
func anyGap(p segments, limit int64, rnd *rand.Rand) (from, to int64, ok bool) {
	for low, high := range p.gaps(limit) {
		from = low + rnd.Int64N(high-low)
		to = from + 1 + rnd.Int64N(high-from)
		if ok = true; rnd.IntN(2) == 0 {
			break
		}
	}
	return from, to, ok
}
