package blobcache

import (
	"context"
	"hash/maphash"
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// fillKey identifies a fill that all requests of an endpoint may share, or one
// of a single scope.
type fillKey struct {
	endpoint string
	digest   digest.Digest
	own      bool
	scope    string
}

// sharing says which fills of other scopes of its endpoint a request may share.
type sharing int

const (
	always   sharing = iota
	answered         // those whose source has answered: else the scopes of a dead source would time out in turn
	never
)

// join returns the running fill for a request, or starts one. The caller gets a
// reference to the fill, which its reader takes over. The result is nil if
// fills have ended since the caller looked into the store, which may have the
// content by now. A request that may not share another scope's fill gets one of
// its own scope. The error is [ErrBusy] if no further fill may be started.
func (c *Cache) join(ctx context.Context, req Request, ended uint64, share sharing) (f *fill, started bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := req.shared()
	f = c.fills[key]
	if f != nil && f.scope != req.Scope && (share == never || share == answered && !f.answered()) {
		key.own, key.scope = true, req.Scope
		f = c.fills[key]
	}
	if f != nil && f.acquire() {
		return f, false, nil
	}
	if c.ended[c.slot(req.Digest)] != ended {
		return nil, false, nil
	}
	slot, err := c.slots.take(&req)
	if err != nil {
		return nil, false, err
	}
	f = newFill(c, req)
	f.key, f.slot = key, slot
	c.fills[key] = f
	// The fill serves all who request the digest, so it must not end with the
	// first request.
	ctx, f.stop = context.WithCancelCause(context.WithoutCancel(ctx))
	go f.run(ctx)
	return f, true, nil
}

func (c *Cache) leave(f *fill) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended[c.slot(f.digest)]++
	if c.fills[f.key] == f { // and not one that has taken an abandoned one's place
		delete(c.fills, f.key)
	}
	close(f.left)
}

// filling reports whether content is being downloaded, or is verified and not
// stored yet.
func (c *Cache) filling(d digest.Digest) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key := range c.fills {
		if key.digest == d {
			return true
		}
	}
	return false
}

func (c *Cache) endedFills(d digest.Digest) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended[c.slot(d)]
}

// slot maps a digest to one of a few counters, so that fills of other digests
// rarely send a request back to the store.
func (c *Cache) slot(d digest.Digest) uint64 {
	return maphash.String(c.seed, string(d)) % uint64(len(c.ended))
}

// Fill describes a running fill.
type Fill struct {
	Digest  digest.Digest
	Size    int64 // of the content in bytes, -1 if not known
	Written int64 // bytes that have come
	Readers int   // requests that follow it
	Since   time.Time
}

// Fills returns the running fills, the oldest first, including those that are
// verified and not stored yet.
func (c *Cache) Fills() []Fill {
	c.mu.Lock()
	fills := slices.Collect(maps.Values(c.fills))
	c.mu.Unlock()
	snapshots := make([]Fill, 0, len(fills))
	for _, f := range fills {
		f.mu.Lock()
		snapshots = append(snapshots, Fill{f.digest, f.size, f.written, max(f.refs-1, 0), f.since})
		f.mu.Unlock()
	}
	slices.SortFunc(snapshots, func(a, b Fill) int { return a.Since.Compare(b.Since) })
	return snapshots
}

// Flush waits until all verified content is stored, or until ctx ends. It does
// not wait for running transfers.
func (c *Cache) Flush(ctx context.Context) {
	c.mu.Lock()
	fills := slices.Collect(maps.Values(c.fills))
	c.mu.Unlock()
	for _, f := range fills {
		if !f.verified() {
			continue
		}
		select {
		case <-f.left:
		case <-ctx.Done():
			return
		}
	}
}
