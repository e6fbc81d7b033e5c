package blobcache

import (
	"context"
	"math"
)

// Reason is why content was evicted.
type Reason string

// The reasons.
const (
	ReasonSize   Reason = "size"   // Limits.MaxSize, or the reserve of the disk
	ReasonUnused Reason = "unused" // Limits.UnusedFor
	ReasonLost   Reason = "lost"   // the disk was full, and the content was not uploaded yet
	ReasonQuota  Reason = "quota"  // that of an owner
	ReasonPurge  Reason = "purge"  // its last link was purged, or was lost while it was in use
)

// Usage is how much of its storage a cache uses.
type Usage struct {
	Bytes int64 // of the stored content
	Blobs int   // contents
	Limit int64 // bytes that can be stored; 0 if that is not known
	Fills int   // downloads in progress
}

// Usage returns how much is stored, as of the last walk and since. It takes the same
// time however much that is.
func (c *Cache) Usage(ctx context.Context) Usage {
	k := c.evictor
	disk := k.disk(ctx)
	k.mu.Lock()
	u := Usage{Bytes: k.stored, Blobs: k.entries, Limit: k.capacity(disk)}
	k.mu.Unlock()
	if u.Limit == math.MaxInt64 {
		u.Limit = 0
	}
	u.Fills = len(c.Fills())
	return u
}
