package blobcache

import (
	"context"
	"io"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// A manifest may name anything, so these limits bound how much of a tree is
// read.
const (
	treeContentSize = 4 << 20 // bytes of content that may name others
	treeDepth       = 4       // levels: an index of indexes of images
	treeCount       = 8 << 10
)

// node is content in a tree of contents that name others.
type node struct {
	digest digest.Digest
	height int // 0 for content that names nothing
}

// tree returns root and everything that it names, directly or not, as far as it
// is stored. Content follows its children; root comes last.
func (k *evictor) tree(ctx context.Context, root digest.Digest) []node {
	t := treeReader{of: k, seen: make(map[digest.Digest]int)}
	t.read(ctx, Child{Digest: root, Compound: true}, treeDepth)
	return t.nodes
}

// latest returns the latest time of use that the children of root have if they
// were used by root's pull alone.
func latest(root store.Entry, tree []node) time.Time {
	height := tree[len(tree)-1].height
	return root.Used.Add(childLead * time.Duration(height))
}

type treeReader struct {
	of    *evictor
	seen  map[digest.Digest]int // their heights
	nodes []node
}

func (t *treeReader) read(ctx context.Context, part Child, depth int) (height int) {
	if height, ok := t.seen[part.Digest]; ok {
		return height
	}
	t.seen[part.Digest] = 0
	if part.Compound && depth > 0 {
		for _, p := range t.of.childrenOf(ctx, part.Digest) {
			if len(t.seen) >= treeCount {
				break
			}
			height = max(height, 1+t.read(ctx, p, depth-1))
		}
	}
	if part.Compound && depth < treeDepth {
		height = max(height, 1) // also if it is not stored
	}
	t.seen[part.Digest] = height
	t.nodes = append(t.nodes, node{part.Digest, height})
	return height
}

// childrenOf returns what stored content names, or nothing if it cannot be
// read.
func (k *evictor) childrenOf(ctx context.Context, d digest.Digest) []Child {
	if k.limits.Children == nil {
		return nil
	}
	file, err := k.blobs.Open(ctx, d)
	if err != nil {
		return nil
	}
	defer file.Close()
	var valid []Child
	for _, part := range k.limits.Children(io.LimitReader(file, treeContentSize)) {
		if part.Digest.Validate() == nil {
			valid = append(valid, part)
		}
	}
	return valid
}

// Tree returns the digests of content and of everything that it names, directly or
// not, as far as it is stored. It does not count as a use of the content.
func (c *Cache) Tree(ctx context.Context, root digest.Digest) (all []digest.Digest) {
	for _, n := range c.evictor.tree(ctx, root) {
		all = append(all, n.digest)
	}
	return all
}
