package blobcache

import (
	"context"
	_ "crypto/sha256" // the digest algorithms that can be verified
	_ "crypto/sha512"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"io/fs"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
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
	Evicted func(e Entry, left int64)

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
	store  Store
	keeper *keeper
	hooks  Hooks
	spans  spans
	// stopAbandoned is [Limits.StopAbandoned].
	stopAbandoned bool

	mu    sync.Mutex
	fills map[fillKey]*fill
	ended [256]uint64 // how many fills have left the map, by slot of their digest
	seed  maphash.Seed

	small *lru.Cache[digest.Digest, []byte]
	lied  *lru.Cache[digest.Digest, struct{}] // fetched in ranges that did not fit together
}

// The small content kept in memory is manifests and indexes, of a few
// kilobytes each: at most 16 MiB in all.
const (
	smallEntries = 256
	smallLimit   = 64 << 10
	liedEntries  = 1024
)

// New returns a cache over a store, without bounds.
func New(store Store, hooks Hooks) *Cache {
	small, err1 := lru.New[digest.Digest, []byte](smallEntries)
	lied, err2 := lru.New[digest.Digest, struct{}](liedEntries)
	if err := errors.Join(err1, err2); err != nil {
		panic(err) // the sizes are positive constants
	}
	return &Cache{
		store: store, hooks: hooks, spans: defaultSpans, small: small, lied: lied,
		fills: make(map[fillKey]*fill), seed: maphash.MakeSeed(),
	}
}

// NewBounded returns a cache over a shelf. The limits are kept while Keep runs.
func NewBounded(shelf Shelf, limits Limits, hooks Hooks) *Cache {
	c := New(shelf, hooks)
	c.keeper = newKeeper(shelf, limits, hooks)
	c.stopAbandoned = limits.StopAbandoned
	return c
}

// Keep keeps a bounded cache within its limits until ctx ends: it walks the
// shelf now, whenever room is wanted and every ten minutes. Beside that it reads
// all content at a low rate and drops what has been damaged.
func (c *Cache) Keep(ctx context.Context) {
	if c.keeper == nil {
		return
	}
	var scrubbing sync.WaitGroup
	scrubbing.Go(func() { c.scrub(ctx) })
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
	// size is damaged: it is dropped and fetched again.
	Size int64

	// Scope names the authority that Fetch asks with. A request shares
	// another one's failure only within a scope: in another scope it asks
	// for itself.
	Scope string

	Fetch Fetch

	// Connections is how many ranges of large content may be fetched from the
	// source at once. Below 2 it is never asked for a part.
	Connections int

	// Confirmed, if set, is called once Fetch has succeeded and before any
	// request that shares the fill is answered.
	Confirmed func(size int64)
}

// Get returns the content, filling the cache on the way. It returns as soon as
// the source has answered; the bytes follow as they come. The reader must be
// closed. An error is the source's own, or ctx's.
func (c *Cache) Get(ctx context.Context, req Request) (*Reader, Origin, error) {
	if err := req.Digest.Validate(); err != nil {
		return nil, Led, fmt.Errorf("%q: %w", req.Digest, err)
	}
	for refused := false; ; {
		ended := c.endedFills(req.Digest)
		if r := c.open(ctx, req.Digest, req.Size); r != nil {
			c.keeper.used(req.Digest)
			return r, Hit, nil
		}
		f, led := c.join(ctx, req, ended, refused)
		if f == nil {
			continue
		}
		r, origin, err := f.reader(ctx, req, led)
		if err == nil && origin == Joined {
			c.hooks.joined(req.Digest)
		}
		if err == nil || origin == Led || f.scope == req.Scope || ctx.Err() != nil {
			return r, origin, err
		}
		// Another scope's fill failed, perhaps for want of a right that this
		// one has. Waiting for one such failure is enough.
		refused = true
	}
}

// Has reports whether the content is stored, and its size.
func (c *Cache) Has(ctx context.Context, d digest.Digest) (size int64, ok bool) {
	r := c.open(ctx, d, -1)
	if r == nil {
		return 0, false
	}
	defer r.Close()
	return r.Size(), true
}

// open returns a reader of stored content, or nil. Storage that fails is as
// good as storage that is empty.
func (c *Cache) open(ctx context.Context, d digest.Digest, size int64) *Reader {
	file, err := c.store.Open(ctx, d)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			c.trouble("open stored content", err)
		}
		return nil
	}
	stored, err := file.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = file.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = file.Close()
		c.trouble("measure stored content", err)
		return nil
	}
	if size >= 0 && stored != size && !intact(file, d) || stored == 0 && !isEmpty(d) {
		_ = file.Close()
		c.trouble("check stored content", fmt.Errorf("%s has %d bytes instead of %d", d, stored, size))
		c.remove(ctx, d)
		return nil
	}
	return &Reader{source: file, size: stored}
}

// intact reads content that has another size than was expected: the one who
// expects may have been told wrong, and has no say over what others stored.
func intact(file io.ReadSeeker, d digest.Digest) bool {
	verifier := d.Verifier()
	if _, err := io.Copy(verifier, file); err != nil || !verifier.Verified() {
		return false
	}
	_, err := file.Seek(0, io.SeekStart)
	return err == nil
}

// isEmpty tells whether d is the digest of no bytes at all. Empty content has
// no last byte to hold back, so it is looked at before it is answered.
func isEmpty(d digest.Digest) bool { return d == d.Algorithm().FromBytes(nil) }

func (c *Cache) remove(ctx context.Context, d digest.Digest) {
	c.small.Remove(d)
	if err := c.store.Remove(ctx, d); err != nil {
		c.trouble("remove content", err)
	}
}

func (c *Cache) trouble(op string, err error) { c.hooks.trouble(op, err) }
