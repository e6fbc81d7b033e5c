package blobcache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/time/rate"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/internal/buffer"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

const (
	// scrubRate is the number of bytes read per second to look for damage: a
	// terabyte takes a day and a half.
	scrubRate = 8 << 20

	// scrubRest is the time between two scrubs.
	scrubRest = 7 * 24 * time.Hour

	// scrubSeek is the least cost of one content, in bytes: finding a file
	// takes as long as reading some of it. A million small files take two
	// hours.
	scrubSeek = 64 << 10

	// scrubDoubts is the number of unreadable contents that a scrub checks
	// again.
	scrubDoubts = 1024
)

// Scrubbing is the result of a scrub.
type Scrubbing struct {
	Checked int   // contents that were read to their end
	Bytes   int64 // of them
	Damaged int   // contents that are not what they were, or cannot be read
	Healed  int   // of them, those that were dropped to be fetched again
	Took    time.Duration
}

// Scrub reads all stored content, at most bytesPerSecond bytes a second or
// without a limit if that is 0. It removes content that is damaged or cannot be
// read, so that the next pull fetches it again. Each scrub starts at a random
// place, so restarts do not always cut off the same content. An error is ctx's,
// or that of a walk that could not see everything. Scrub calls report, unless it is nil,
// with what it has found so far, after each content.
func (c *Cache) Scrub(ctx context.Context, bytesPerSecond int64, report func(Scrubbing)) (Scrubbing, error) {
	found, err := c.scrub(ctx, bytesPerSecond, func(store.Entry) bool { return true }, report)
	c.reportScrubbed(found)
	return found, err
}

func (c *Cache) reportScrubbed(found Scrubbing) {
	if c.hooks.Scrubbed != nil {
		c.hooks.Scrubbed(found)
	}
}

func (c *Cache) scrub(ctx context.Context, bytesPerSecond int64, which func(store.Entry) bool, report func(Scrubbing)) (Scrubbing, error) {
	limit := rate.Inf
	if bytesPerSecond > 0 {
		limit = rate.Limit(bytesPerSecond)
	}
	s := &scrub{cache: c, which: which, report: report, limiter: rate.NewLimiter(limit, buffer.Small)}
	begin := time.Now()
	err := s.run(ctx)
	s.found.Took = time.Since(begin)
	return s.found, err
}

// keepScrubbing scrubs in the background until ctx ends. It starts with the
// content that must be verified before it is opened: after an upgrade that may
// be all of it.
func (c *Cache) keepScrubbing(ctx context.Context) {
	found, err := c.scrub(ctx, scrubRate, func(e store.Entry) bool { return e.Doubtful }, nil)
	if err != nil && ctx.Err() == nil {
		c.storageError("verify stored content", err)
	}
	if found.Checked+found.Damaged > 0 {
		c.reportScrubbed(found)
	}
	for ctx.Err() == nil {
		if _, err := c.Scrub(ctx, scrubRate, nil); err != nil && ctx.Err() == nil {
			c.storageError("scrub", err)
		}
		if !store.Pause(ctx, scrubRest) {
			return
		}
	}
}

type scrub struct {
	cache   *Cache
	which   func(store.Entry) bool
	report  func(Scrubbing) // may be nil
	limiter *rate.Limiter
	found   Scrubbing
	doubts  []digest.Digest // content that could not be read
}

func (s *scrub) run(ctx context.Context) error {
	start := fmt.Sprintf("%02x", rand.IntN(256))
	var unseen error
	for _, second := range []bool{false, true} {
		unseen = s.cache.blobs.Walk(ctx, func(e store.Entry) error {
			if (e.Digest.Encoded() < start) == second && s.which(e) {
				s.check(ctx, e.Digest, s.doubt)
			}
			return ctx.Err()
		})
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if s.found.Checked == 0 {
		return unseen // the disk cannot be read at all, which says nothing about the content
	}
	for _, d := range s.doubts {
		s.found.Damaged-- // it is counted again unless it was a bad moment
		s.check(ctx, d, s.drop)
	}
	return errors.Join(unseen, ctx.Err())
}

// check compares stored content with its digest, and calls unreadable if it
// cannot be read.
func (s *scrub) check(ctx context.Context, d digest.Digest, unreadable func(context.Context, digest.Digest, error)) {
	if s.limiter.WaitN(ctx, scrubSeek) != nil {
		return
	}
	if s.report != nil {
		defer func() { s.report(s.found) }()
	}
	var size int64
	err := s.cache.blobs.Check(ctx, d, func(ctx context.Context, n int) error {
		if size += int64(n); size <= scrubSeek {
			return nil
		}
		return s.limiter.WaitN(ctx, n)
	})
	damaged := errors.Is(err, store.ErrDamaged)
	switch {
	case ctx.Err() != nil || !damaged && errors.Is(err, fs.ErrNotExist):
		return
	case err != nil && !damaged:
		unreadable(ctx, d, err)
		return
	}
	s.found.Checked++
	s.found.Bytes += size
	if damaged {
		s.drop(ctx, d, err)
	}
}

// doubt puts unreadable content off until the end of the scrub, in case the
// disk fails only for a moment.
func (s *scrub) doubt(_ context.Context, d digest.Digest, err error) {
	s.found.Damaged++
	if len(s.doubts) < scrubDoubts {
		s.doubts = append(s.doubts, d)
	}
	s.cache.storageError("scrub "+d.String(), err)
}

func (s *scrub) drop(ctx context.Context, d digest.Digest, why error) {
	s.found.Damaged++
	if s.cache.heal(ctx, d, why) {
		s.found.Healed++
	}
}
