package blobcache

import (
	"context"
	"math"
	"sync"
	"time"
)

// usagePatience is how long [Cache.Usage] waits for the disk.
const usagePatience = 500 * time.Millisecond

// Reason is why content was evicted.
type Reason string

// The reasons.
const (
	ReasonSize   Reason = "size"   // Limits.MaxSize, or the reserve of the disk
	ReasonUnused Reason = "unused" // Limits.UnusedFor
	ReasonLost   Reason = "lost"   // the disk was full, and the content was not uploaded yet
	ReasonQuota  Reason = "quota"  // the quota of an owner
	ReasonPurge  Reason = "purge"  // its last link was purged, or was lost while it was in use
)

// Usage is how much of its storage a cache uses.
type Usage struct {
	Bytes int64 // of the stored content
	Blobs int   // contents
	Limit int64 // bytes that can be stored; 0 if that is not known
	Fills int   // downloads in progress
}

// Usage returns how much is stored, as of the last walk and since. It does not walk the
// stored content. If the disk cannot be measured within half a second, or before ctx ends,
// Usage returns its last measurement.
func (c *Cache) Usage(ctx context.Context) Usage {
	k := c.evictor
	disk := k.seen.ask(ctx, k.disk)
	k.mu.Lock()
	u := Usage{Bytes: k.stored, Blobs: k.entries, Limit: k.capacity(disk)}
	k.mu.Unlock()
	if u.Limit == math.MaxInt64 {
		u.Limit = 0
	}
	u.Fills = len(c.Fills())
	return u
}

// seenDisk is the disk as it was last measured. It runs one measurement at a time: a dead
// disk may block a measurement forever, and must not block more with each call.
type seenDisk struct {
	mu   sync.Mutex
	last disk
	done chan struct{} // closed at the end of the measurement; nil if none is running
}

// ask returns the result of measure, or the last one if measure does not return within
// usagePatience.
func (s *seenDisk) ask(ctx context.Context, measure func(context.Context) disk) disk {
	s.mu.Lock()
	if s.done == nil {
		s.done = make(chan struct{})
		go s.measure(context.WithoutCancel(ctx), measure, s.done)
	}
	done := s.done
	s.mu.Unlock()
	patience := time.NewTimer(usagePatience)
	defer patience.Stop()
	select {
	case <-done:
	case <-patience.C:
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

func (s *seenDisk) measure(ctx context.Context, measure func(context.Context) disk, done chan struct{}) {
	now := measure(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last, s.done = now, nil
	close(done)
}
