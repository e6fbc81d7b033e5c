package blobcache

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// ErrDigestMismatch means that a source sent bytes that do not have the digest
// it was asked for. They are neither stored nor sent to their end.
var ErrDigestMismatch = errors.New("content does not match its digest")

// Hooks are called, where set, as things happen; they must not block.
type Hooks struct {
	// FillDone is called once for each fill, err being nil when the content
	// was verified. Size is the number of bytes that were fetched.
	FillDone func(d digest.Digest, size int64, took time.Duration, err error)

	// Joined is called for each request that follows another one's fill.
	Joined func(d digest.Digest)

	// Resumed is called when a fill is about to ask the source again, which
	// broke off, or refused, at an offset.
	Resumed func(d digest.Digest, offset int64, err error)

	// Abandoned is called when the last reader of a fill in flight is gone:
	// so many bytes of size have come, -1 if that is not known. The fill goes
	// on, or is about to end with ErrAbandoned.
	Abandoned func(d digest.Digest, written, size int64, goesOn bool)

	// Evicted is called for content that was removed to keep the limits; left
	// is how many bytes are stored without it.
	Evicted func(e store.Entry, left int64)

	// Healed is called for stored content that was found cut, damaged or
	// unreadable, and dropped: the next request, which may be the one that has
	// found it, fetches it again.
	Healed func(d digest.Digest, why error)

	// Scrubbed is called when a scrub has ended, also early.
	Scrubbed func(Scrubbing)

	// Trimmed is called when an owner's links were removed because it was over
	// its quota: how many, and how many bytes it has less.
	Trimmed func(owner string, links int, size int64)

	// Trouble is called when storage fails in a way that a request survives:
	// op says what was being done.
	Trouble func(op string, err error)
}

func (h Hooks) trouble(op string, err error) {
	if h.Trouble != nil {
		h.Trouble(op, err)
	}
}

func (h Hooks) joined(d digest.Digest) {
	if h.Joined != nil {
		h.Joined(d)
	}
}

func (h Hooks) resumed(d digest.Digest, offset int64, err error) {
	if h.Resumed != nil {
		h.Resumed(d, offset, err)
	}
}

func (h Hooks) abandoned(d digest.Digest, written, size int64, goesOn bool) {
	if h.Abandoned != nil {
		h.Abandoned(d, written, size, goesOn)
	}
}

// Cache answers requests for content by digest. It is safe for concurrent use.
// It needs no closing, since a fill ends by itself, but a process that is about
// to exit should Flush.
type Cache struct {
	blobs  store.Blobs
	keeper *keeper
	hooks  Hooks
	spans  spans
	slots  *slots
	// stopAbandoned is [Limits.StopAbandoned].
	stopAbandoned bool

	mu    sync.Mutex
	fills map[fillKey]*fill
	ended [256]uint64 // how many fills have left the map, by slot of their digest
	seed  maphash.Seed

	removing   sync.Mutex      // so that what goes is counted out once
	committing [256]sync.Mutex // and what comes in once, by slot of its digest

	small *lru.Cache[digest.Digest, []byte]
	lied  *lru.Cache[fillKey, struct{}] // fetched in ranges that did not fit together
	// sizes are of content that was found whole although its size was not the
	// one that somebody had expected.
	sizes *lru.Cache[digest.Digest, int64]
}

// The small content kept in memory is manifests and indexes, of a few
// kilobytes each: at most 16 MiB in all.
const (
	smallEntries = 256
	smallLimit   = 64 << 10
	liedEntries  = 1024
	sizesEntries = 4 << 10
)

// New returns a cache that stores content in blobs. It keeps the limits while
// Keep runs.
func New(blobs store.Blobs, limits Limits, hooks Hooks) *Cache {
	small, err1 := lru.New[digest.Digest, []byte](smallEntries)
	lied, err2 := lru.New[fillKey, struct{}](liedEntries)
	sizes, err3 := lru.New[digest.Digest, int64](sizesEntries)
	if err := errors.Join(err1, err2, err3); err != nil {
		panic(err) // the sizes are positive constants
	}
	return &Cache{
		blobs: blobs, keeper: newKeeper(blobs, limits, hooks), hooks: hooks, stopAbandoned: limits.StopAbandoned,
		spans: defaultSpans, slots: newSlots(), small: small, lied: lied, sizes: sizes,
		fills: make(map[fillKey]*fill), seed: maphash.MakeSeed(),
	}
}

// Keep keeps the cache within its limits until ctx ends. It walks the stored
// content at once, whenever a download needs room, and every ten minutes. It also
// reads all content at a low rate and removes damaged content.
func (c *Cache) Keep(ctx context.Context) {
	var scrubbing sync.WaitGroup
	scrubbing.Go(func() { c.keepScrubbing(ctx) })
	c.keeper.run(ctx)
	scrubbing.Wait()
}

// Origin says where an answer comes from.
type Origin int

const (
	// Hit is content that was stored.
	Hit Origin = iota
	// Joined is content that another request's fill is fetching.
	Joined
	// Led is content that this request asked the source for.
	Led
)

// Request asks for content.
type Request struct {
	Digest digest.Digest

	// Size in bytes if it is known, else -1. Stored content of another
	// size is damaged, unless its digest says otherwise: it is dropped and
	// fetched again.
	Size int64

	// Limit is the size in bytes above which the content is passed on without
	// being stored; 0 for none.
	Limit int64

	// Endpoint names the endpoint that Fetch asks; fills in progress are shared
	// only between requests of the same endpoint.
	Endpoint string

	// Scope names the authority that Fetch asks with. A request shares
	// another one's failure only within a scope: in another scope it asks
	// for itself.
	Scope string

	// Claim, if set, decides what the scope may have of content that the
	// request does not fetch itself. Without it, that is everything.
	Claim Claim

	// Source bounds what comes from the endpoint, for all scopes together.
	Source SourceLimits

	// Group is who answers for the fill, if the request starts one: it counts
	// as one of the group's, in number and in the room that it takes. Empty is
	// nobody.
	Group string

	// Reserve, if set, is told how many bytes of room a fill is about to take
	// that the request has started, and, as a negative number, how many it gives
	// back. False means that it must not: the content is passed on without being
	// stored. What has been stored is given back as well.
	Reserve func(bytes int64) (ok bool)

	Fetch Fetch

	// Connections is how many ranges of large content may be fetched from the
	// source at once. Below 2 it is never asked for a part.
	Connections int

	// Stored, if set, is called when a fill that the request has started has
	// been stored.
	Stored func(size int64)
}

// Get returns the content, filling the cache on the way. It returns as soon as
// the source has answered; the bytes follow as they come. The reader must be
// closed. An error is the source's own, ctx's, or ErrBusy.
func (c *Cache) Get(ctx context.Context, req Request) (*Reader, Origin, error) {
	if err := req.Digest.Validate(); err != nil {
		return nil, Led, fmt.Errorf("%q: %w", req.Digest, err)
	}
	for share := always; ; {
		ended := c.endedFills(req.Digest)
		standing := req.standing(ctx)
		if standing.Linked || standing.Delivered {
			req.Size = standing.Size
		}
		if standing.Linked || standing.Delivered && share != never {
			r, err := c.stored(ctx, req, standing)
			if !errors.Is(err, ErrUnconfirmed) && (r != nil || err != nil) {
				return r, Hit, err
			}
			if err != nil {
				share = never
			}
		}
		f, led, err := c.join(ctx, req, ended, share)
		if err != nil {
			return nil, Led, err
		}
		if f == nil {
			continue
		}
		r, origin, err := f.reader(ctx, req, led)
		if err == nil && origin == Joined {
			if err = f.admit(ctx, req, standing); err == nil {
				c.hooks.joined(req.Digest)
				return r, origin, nil
			}
			_ = r.Close()
			if !errors.Is(err, ErrUnconfirmed) {
				return nil, origin, err
			}
			share = never
			continue
		}
		if err == nil || origin == Led || f.scope == req.Scope || ctx.Err() != nil {
			return r, origin, err
		}
		// Another scope's fill failed, perhaps for want of a right that this
		// one has. Waiting for one such failure is enough.
		share = max(share, answered)
	}
}

// stored opens stored content for a request that may have it, nil if there is
// none.
func (c *Cache) stored(ctx context.Context, req Request, standing Standing) (*Reader, error) {
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
	r.cancel = c.keeper.read(req.Digest)
	return r, nil
}

// shared is the key of the fill that the request shares with others.
func (r *Request) shared() fillKey { return fillKey{endpoint: r.Endpoint, digest: r.Digest} }

func (c *Cache) trouble(op string, err error) { c.hooks.trouble(op, err) }
