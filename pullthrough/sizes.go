package pullthrough

import (
	"bytes"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
)

const (
	// maxSizes is how many sizes are remembered. Each takes about 300 bytes.
	maxSizes = 16 << 10

	// maxSizesOfOne is how many of them may come from one manifest.
	maxSizesOfOne = 1 << 10

	// maxSize is the size in bytes up to which a manifest is believed. The sizes of
	// a thousand ranges of such a blob can be added.
	maxSize = 1 << 50
)

// Sizes remembers the sizes of the configs and layers that manifests named last, at
// most 16384. What a manifest says is a hint, since upstream may have a blob of
// another size: it tells clients what to expect of a blob that upstream sends
// without a size, and is never recorded. A nil Sizes remembers nothing.
type Sizes struct{ known *lru.Cache[sizeKey, int64] }

// sizeKey is a blob, or a manifest whose blobs are remembered, of one scope: what a
// manifest of one repository says does not count for another one.
type sizeKey struct {
	scope  string
	digest digest.Digest
}

// NewSizes returns an empty Sizes.
func NewSizes() *Sizes {
	known, err := lru.New[sizeKey, int64](maxSizes)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	return &Sizes{known}
}

// remember remembers the sizes in a manifest, which it reads only if it has not done
// so already.
func (s *Sizes) remember(scope string, manifest digest.Digest, content []byte) {
	key := sizeKey{scope, manifest}
	if s == nil || s.known.Contains(key) {
		return
	}
	// Added before its blobs, and never used, the manifest is forgotten before them.
	s.known.Add(key, 0)
	for i, blob := range readChildren(bytes.NewReader(content)) {
		if i == maxSizesOfOne {
			break
		}
		if blob.Compound || blob.size <= 0 || blob.size > maxSize || blob.Digest.Validate() != nil {
			continue
		}
		key := sizeKey{scope, blob.Digest}
		if before, ok := s.known.Peek(key); ok && before != blob.size {
			blob.size = 0
		}
		s.known.Add(key, blob.size)
	}
}

// of returns the size of a blob in bytes, or 0 if it is not known.
func (s *Sizes) of(scope string, blob digest.Digest) int64 {
	if s == nil {
		return 0
	}
	size, _ := s.known.Get(sizeKey{scope, blob})
	return size
}
