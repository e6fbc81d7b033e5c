package blobcache

import (
	"context"
	"io"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// What content may name is not known to be true: a tree is read with bounds.
const (
	partsSize  = 4 << 20 // bytes of content that may name others
	partsDepth = 4       // levels: an index of indexes of images
	partsCount = 8 << 10
)

// node is content in a tree of what names what.
type node struct {
	digest digest.Digest
	height int // 0 for what names nothing
}

// tree is some content with all that it names, as far as that is stored, and
// what those name. Names come last.
func (k *keeper) tree(ctx context.Context, root digest.Digest) []node {
	t := treeReader{keeper: k, seen: make(map[digest.Digest]int)}
	t.read(ctx, Part{Digest: root, Compound: true}, partsDepth)
	return t.nodes
}

// latest is the last time at which parts of some content were used, if nothing
// but the content itself has used them.
func latest(root store.Entry, tree []node) time.Time {
	height := tree[len(tree)-1].height
	return root.Used.Add(partLead * time.Duration(height))
}

type treeReader struct {
	*keeper
	seen  map[digest.Digest]int // their heights
	nodes []node
}

func (t *treeReader) read(ctx context.Context, part Part, depth int) (height int) {
	if height, ok := t.seen[part.Digest]; ok {
		return height
	}
	t.seen[part.Digest] = 0
	if part.Compound && depth > 0 {
		for _, p := range t.partsOf(ctx, part.Digest) {
			if len(t.seen) >= partsCount {
				break
			}
			height = max(height, 1+t.read(ctx, p, depth-1))
		}
	}
	if part.Compound && depth < partsDepth {
		height = max(height, 1) // also if it is not here to be read
	}
	t.seen[part.Digest] = height
	t.nodes = append(t.nodes, node{part.Digest, height})
	return height
}

// partsOf reads what stored content names: none if it cannot be read.
func (k *keeper) partsOf(ctx context.Context, d digest.Digest) []Part {
	if k.limits.Parts == nil {
		return nil
	}
	file, err := k.blobs.Open(ctx, d)
	if err != nil {
		return nil
	}
	defer file.Close()
	var valid []Part
	for _, part := range k.limits.Parts(io.LimitReader(file, partsSize)) {
		if part.Digest.Validate() == nil {
			valid = append(valid, part)
		}
	}
	return valid
}
