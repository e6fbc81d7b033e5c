package peers

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// score is the weight of a node for a key: the first 8 bytes, in big-endian order, of
// the SHA-256 of the node's name, a zero byte and the key. It must not change, since
// nodes of different versions rank the same keys.
func score(name, key string) uint64 {
	var buf [512]byte
	text := append(append(append(buf[:0], name...), 0), key...)
	sum := sha256.Sum256(text)
	return binary.BigEndian.Uint64(sum[:8])
}

// ranked returns the nodes in the order in which they are responsible for a key: by
// their scores, highest first (rendezvous hashing). A node that is added or removed
// moves only the keys for which it is the first.
func ranked(nodes []*Node, key string) []*Node {
	type scored struct {
		node  *Node
		score uint64
	}
	all := make([]scored, len(nodes))
	for i, n := range nodes {
		all[i] = scored{n, score(n.name, key)}
	}
	slices.SortFunc(all, func(a, b scored) int {
		return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.node.name, b.node.name))
	})
	order := make([]*Node, len(all))
	for i, s := range all {
		order[i] = s.node
	}
	return order
}
