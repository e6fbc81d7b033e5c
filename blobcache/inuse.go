package blobcache

import (
	"context"
	"sync"

	"github.com/opencontainers/go-digest"
)

// used remembers that content was asked for, and with compound content what it
// names. It is written down later, so that a pull costs no write.
func (k *keeper) used(d digest.Digest, compound bool) {
	if k.uses.add(item{digest: d}, compound) {
		wake(k.full)
	}
}

// read remembers that stored content is being read, until done is called.
func (k *keeper) read(d digest.Digest) (done func()) {
	k.used(d, false)
	k.mu.Lock()
	k.reading[d]++
	k.mu.Unlock()
	return sync.OnceFunc(func() {
		k.used(d, false)
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.reading[d]--; k.reading[d] == 0 {
			delete(k.reading, d)
		}
	})
}

// busy tells whether content is being read or was used since uses were last
// written down.
func (k *keeper) busy(d digest.Digest) bool {
	k.mu.Lock()
	reading := k.reading[d] > 0
	k.mu.Unlock()
	return reading || k.uses.has(item{digest: d})
}

// writeUses tells the shelf what was used since the last time.
func (k *keeper) writeUses(ctx context.Context) {
	k.writing.Lock()
	defer k.writing.Unlock()
	tree := func(d digest.Digest) []node { return k.tree(ctx, d) }
	if err := writeDown(spread(k.uses.take(), tree), func(use dated) error {
		return k.blobs.Touch(ctx, use.digest, use.at)
	}); err != nil {
		k.hooks.trouble("record a use", err)
	}
}
