package blobcache

import (
	"context"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// removable returns a function that reports whether content can be removed without
// being lost, or nil if the storage does not keep copies elsewhere: then all can.
func (k *evictor) removable(ctx context.Context) func(digest.Digest) bool {
	sheltered, ok := k.blobs.(store.Sheltered)
	if !ok {
		return nil
	}
	return func(d digest.Digest) bool { return sheltered.Removable(ctx, d) }
}

// isShort reports whether the disk has too little room. Without that, content that has
// no copy yet stays, even if there is more of it than the limits permit.
func (k *evictor) isShort(ctx context.Context) bool {
	disk := k.disk(ctx)
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.starved || disk.kept && k.coming(disk.written)+k.wanted > disk.spare
}

// evictHeld removes content although it has no copy yet, because the disk is full and
// pulls must go on.
func (k *evictor) evictHeld(ctx context.Context, excess int64) (removed int64) {
	s, err := k.surveyOf(ctx, excess, nil)
	if err != nil {
		return 0
	}
	s.lossy = true
	return k.evict(ctx, s)
}
