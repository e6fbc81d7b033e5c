package peers

import (
	"fmt"
	"math"
	"slices"
	"testing"
)

// listed returns nodes with names, as list members that are never asked.
func listed(count int) []*Node {
	nodes := make([]*Node, count)
	for i := range nodes {
		nodes[i] = &Node{name: fmt.Sprintf("node%d.internal:8443", i+1)}
	}
	return nodes
}

// TestScoresDoNotChange checks scores against those that other versions compute.
func TestScoresDoNotChange(t *testing.T) {
	for key, want := range map[string]uint64{"": 0x1df059b19cedaaac, "a": 0xfc88e113611789ce} {
		if got := score("node1.internal:8443", key); got != want {
			t.Errorf("got score %#x of key %q, want %#x", got, key, want)
		}
	}
}

// TestKeysAreDistributed checks that each node is the first, and the second, for about
// the same number of keys.
func TestKeysAreDistributed(t *testing.T) {
	const keys = 20000
	for _, count := range []int{2, 3, 7, 20} {
		nodes := listed(count)
		places := [2]map[*Node]int{{}, {}}
		for i := range keys {
			order := ranked(nodes, fmt.Sprintf("fingerprint sha256:%064x", i))
			places[0][order[0]]++
			places[1][order[1]]++
		}
		for place, counts := range places {
			for _, n := range nodes {
				// Five standard deviations of a binomial distribution.
				mean := float64(keys) / float64(count)
				if off := math.Abs(float64(counts[n]) - mean); off > 5*math.Sqrt(mean) {
					t.Errorf("%d nodes: got %s at place %d for %d keys, want about %.0f", count, n.name, place, counts[n], mean)
				}
			}
		}
	}
}

// TestChangesMoveFewKeys checks that without a node, the others keep their order for
// each key, whatever the order of the list is.
func TestChangesMoveFewKeys(t *testing.T) {
	nodes := listed(5)
	moved := 0
	const keys = 1000
	for i := range keys {
		key := fmt.Sprintf("key %d", i)
		before := ranked(nodes, key)
		rest := slices.Concat(nodes[3:], nodes[:2]) // without nodes[2]
		after := ranked(rest, key)
		if want := slices.DeleteFunc(slices.Clone(before), func(n *Node) bool { return n == nodes[2] }); !slices.Equal(after, want) {
			t.Fatalf("got order %v of key %s without a node, want %v", after, key, want)
		}
		if after[0] != before[0] {
			moved++
		}
	}
	if moved < keys/10 || moved > keys*3/10 {
		t.Errorf("got %d of %d keys moved, want those of one node of five", moved, keys)
	}
}
