package blobcache

import (
	"context"
	"hash/maphash"
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// fillKey names a fill that all requests of an endpoint may share, or a scope's
// own.
type fillKey struct {
	endpoint string
	digest   digest.Digest
	own      bool
	scope    string
}

// sharing says which fills of other scopes of its endpoint a request takes.
type sharing int

const (
	always   sharing = iota
	answered         // those whose source has answered: else the scopes of a dead source would time out in turn
	never
)

// join returns the fill of a digest, starting it if there is none. The caller
// holds a reference to the fill, which its reader takes over. It returns nil
// if fills have ended since the caller looked into the store: the content may
// be there by now. A caller that does not share another scope's fill takes its own
// scope's. An error is [ErrBusy]: the fill may not be started.
func (c *Cache) join(ctx context.Context, req Request, ended uint64, share sharing) (f *fill, led bool, err error) {
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
	// The fill belongs to all who will want the digest, so it does not end
	// with the request that happens to be the first.
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

// filling tells whether content is on its way, or verified and not stored yet.
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

// slot keeps the fills of other digests, with few exceptions, from sending a
// request to a slow store over and over.
func (c *Cache) slot(d digest.Digest) uint64 {
	return maphash.String(c.seed, string(d)) % uint64(len(c.ended))
}

// Fill is a snapshot of a fill in flight.
type Fill struct {
	Digest  digest.Digest
	Size    int64 // of the content in bytes, -1 if not known
	Written int64 // bytes that have come
	Readers int   // requests that follow it
	Since   time.Time
}

// Fills returns the fills in flight, the oldest first. What is verified but not
// on disk yet is among them.
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

// Flush waits until the content that clients have got whole is on disk, or
// until ctx ends. Transfers under way are not waited for.
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
