package blobcache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// Hooks are called, if they are set, when something happens. They must not
// block.
type Hooks struct {
	// FillDone is called once for each fill. Err is nil if the content was
	// verified. Size is the number of bytes that were fetched.
	FillDone func(d digest.Digest, size int64, took time.Duration, err error)

	// Joined is called for each request that follows another request's fill.
	Joined func(d digest.Digest)

	// Resumed is called before a fill asks the source again, which broke off or
	// refused at an offset.
	Resumed func(d digest.Digest, offset int64, err error)

	// Abandoned is called when the last reader of a running fill leaves.
	// Written is the number of bytes that have come, of size bytes in all, or
	// -1 if that is not known. The fill goes on, or ends with ErrAbandoned.
	Abandoned func(d digest.Digest, written, size int64, goesOn bool)

	// Evicted is called for content that was removed although it was intact.
	// Left is the number of bytes that are still stored.
	Evicted func(e store.Entry, why Reason, left int64)

	// Healed is called for stored content that was cut, damaged or unreadable,
	// and has been removed. The next request, which may be the one that found
	// it, downloads it again.
	Healed func(d digest.Digest, why error)

	// Scrubbed is called when a scrub ends, also if it ends early.
	Scrubbed func(Scrubbing)

	// Trimmed is called when an owner over its quota has lost links: how many,
	// and how many bytes it has less.
	Trimmed func(owner string, links int, size int64)

	// StorageError is called for an error of the storage that a request
	// survives. Op says what was being done.
	StorageError func(op string, err error)
}

func (h Hooks) storageError(op string, err error) {
	if h.StorageError != nil {
		h.StorageError(op, err)
	}
}

// Cache answers requests for content by digest. It is safe for concurrent use.
// It needs no closing, since a fill ends by itself, but a process should call
// Flush before it exits.
type Cache struct {
	blobs    store.Blobs
	evictor  *evictor
	hooks    Hooks
	fills    *fill.Table
	removing sync.Mutex // so that removed content is subtracted once

	small *lru.Cache[digest.Digest, []byte]
	// sizes remembers content that was verified although its size was not the
	// expected one.
	sizes *lru.Cache[digest.Digest, int64]
}

// Manifests and indexes, of a few kilobytes each, are kept in memory: at most
// 16 MiB in all.
const (
	smallEntries = 256
	smallLimit   = 64 << 10
	sizesEntries = 4 << 10
)

// New returns a cache that stores content in blobs. It keeps the limits while
// Keep runs.
func New(blobs store.Blobs, limits Limits, hooks Hooks) *Cache {
	small, err1 := lru.New[digest.Digest, []byte](smallEntries)
	sizes, err2 := lru.New[digest.Digest, int64](sizesEntries)
	if err := errors.Join(err1, err2); err != nil {
		panic(err) // the sizes are positive constants
	}
	c := &Cache{blobs: blobs, evictor: newEvictor(blobs, limits, hooks), hooks: hooks, small: small, sizes: sizes}
	c.fills = c.newFills(fill.DefaultSpans)
	return c
}

// newFills returns a table of fills whose requests for ranges have these sizes.
func (c *Cache) newFills(spans fill.Spans) *fill.Table {
	return fill.NewTable(fill.Config{
		Blobs:         c.blobs,
		Room:          c.evictor,
		IsStored:      c.isStored,
		StopAbandoned: c.evictor.limits.StopAbandoned,
		Spans:         spans,
		Hooks: fill.Hooks{
			Done:         c.hooks.FillDone,
			Joined:       c.hooks.Joined,
			Resumed:      c.hooks.Resumed,
			Abandoned:    c.hooks.Abandoned,
			StorageError: c.hooks.StorageError,
		},
	})
}

// isStored reports whether content of this size is stored, and counts it as used.
func (c *Cache) isStored(ctx context.Context, d digest.Digest, size int64) bool {
	r := c.open(ctx, d, size)
	if r == nil {
		return false
	}
	_ = r.Close()
	c.evictor.used(d, false)
	return true
}

// Fills returns the running downloads, the oldest first.
func (c *Cache) Fills() []fill.Progress { return c.fills.Fills() }

// Filling reports whether content is being downloaded, or is verified and not stored yet.
func (c *Cache) Filling(d digest.Digest) bool { return c.fills.Filling(d) }

// Flush waits until all verified content is stored, or until ctx ends. It does not
// wait for running transfers.
func (c *Cache) Flush(ctx context.Context) { c.fills.Flush(ctx) }

// Keep keeps the cache within its limits until ctx ends. It walks the stored
// content at once, whenever a download needs room, and every ten minutes. It also
// reads all content at a low rate and removes damaged content.
func (c *Cache) Keep(ctx context.Context) {
	var scrubbing sync.WaitGroup
	scrubbing.Go(func() { c.keepScrubbing(ctx) })
	c.evictor.run(ctx)
	scrubbing.Wait()
}

// Get returns the content and fills the cache on the way. It returns as soon as
// the source has answered; the bytes follow as they come. The caller must close
// the reader. The error is the source's, ctx's, or ErrBusy.
func (c *Cache) Get(ctx context.Context, req fill.Request) (*Reader, fill.Origin, error) {
	if err := req.Digest.Validate(); err != nil {
		return nil, fill.Started, fmt.Errorf("%q: %w", req.Digest, err)
	}
	var hit *Reader
	follower, origin, err := c.fills.Get(ctx, req, func(ctx context.Context, req fill.Request, standing fill.Standing) (bool, error) {
		r, err := c.stored(ctx, req, standing)
		hit = r
		return r != nil, err
	})
	if err != nil {
		return nil, origin, err
	}
	if origin == fill.Hit {
		return hit, origin, nil
	}
	return &Reader{source: follower, cancel: follower.Cancel, size: follower.Size()}, origin, nil
}

// stored opens stored content for a request that may have it. It returns nil if
// the content is not stored.
func (c *Cache) stored(ctx context.Context, req fill.Request, standing fill.Standing) (*Reader, error) {
	r := c.open(ctx, req.Digest, req.Size)
	if r == nil {
		return nil, nil
	}
	if !standing.Linked {
		size := r.Size()
		if err := req.Claim.Confirm(ctx, size); err != nil {
			_ = r.Close()
			return nil, err
		}
		req.Claim.Delivered(size)
	}
	r.cancel = c.evictor.read(req.Digest)
	return r, nil
}

func (c *Cache) storageError(op string, err error) { c.hooks.storageError(op, err) }
