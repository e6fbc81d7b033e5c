package blobcache

import (
	"context"
	"time"

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

// evictHeld removes content although it has no copy yet, and will not have one soon,
// because the disk is full. Content that is still being copied stays, and downloads are
// passed on without being stored until it is.
func (k *evictor) evictHeld(ctx context.Context, excess int64) (removed int64) {
	sheltered := k.blobs.(store.Sheltered) // only such stores have content that is not removable
	s, err := k.surveyOf(ctx, excess, func(d digest.Digest) bool { return sheltered.Stuck(d) && !sheltered.Removable(ctx, d) })
	if err != nil {
		return 0
	}
	s.lossy, s.aged = true, time.Time{} // age alone does not justify the removal
	return k.evict(ctx, s)
}
