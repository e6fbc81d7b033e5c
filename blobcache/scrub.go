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

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

const (
	// scrubRate is how many bytes a second are read to look for damage: a
	// terabyte in a day and a half.
	scrubRate = 8 << 20

	// scrubRest is how long after one scrub the next one begins.
	scrubRest = 7 * 24 * time.Hour

	// scrubSeek is what one content costs at least, in bytes: to find a file is
	// as much work as to read some of it. A million small ones take two hours.
	scrubSeek = 64 << 10

	// scrubDoubts is how many unreadable contents a scrub looks at again.
	scrubDoubts = 1024
)

// Scrubbing is what a scrub has found.
type Scrubbing struct {
	Checked int   // contents that were read to their end
	Bytes   int64 // of them
	Damaged int   // contents that are not what they were, or cannot be read
	Healed  int   // of them, those that were dropped to be fetched again
	Took    time.Duration
}

// Scrub reads all stored content, at most so many bytes a
// second or at any rate if that is 0, and drops what has lost its digest or
// cannot be read: the next pull fetches it again. Each scrub begins somewhere
// else, so that what a restart keeps it from reaching is not always the same.
// An error is ctx's, or the shelf's where it cannot be walked.
func (c *Cache) Scrub(ctx context.Context, bytesPerSecond int64) (Scrubbing, error) {
	found, err := c.scrub(ctx, bytesPerSecond, func(store.Entry) bool { return true })
	c.tellScrubbed(found)
	return found, err
}

func (c *Cache) tellScrubbed(found Scrubbing) {
	if c.hooks.Scrubbed != nil {
		c.hooks.Scrubbed(found)
	}
}

func (c *Cache) scrub(ctx context.Context, bytesPerSecond int64, which func(store.Entry) bool) (Scrubbing, error) {
	limit := rate.Inf
	if bytesPerSecond > 0 {
		limit = rate.Limit(bytesPerSecond)
	}
	s := &scrub{cache: c, which: which, limiter: rate.NewLimiter(limit, smallBuffer)}
	begin := time.Now()
	err := s.run(ctx)
	s.found.Took = time.Since(begin)
	return s.found, err
}

// keepScrubbing scrubs in the background until ctx ends. What would have to be
// verified when it is asked for comes first: all of a cache that an earlier
// version has written.
func (c *Cache) keepScrubbing(ctx context.Context) {
	found, err := c.scrub(ctx, scrubRate, func(e store.Entry) bool { return e.Doubtful })
	if err != nil && ctx.Err() == nil {
		c.trouble("verify stored content", err)
	}
	if found.Checked+found.Damaged > 0 {
		c.tellScrubbed(found)
	}
	for ctx.Err() == nil {
		if _, err := c.Scrub(ctx, scrubRate); err != nil && ctx.Err() == nil {
			c.trouble("scrub", err)
		}
		if !store.Pause(ctx, scrubRest) {
			return
		}
	}
}

type scrub struct {
	cache   *Cache
	which   func(store.Entry) bool
	limiter *rate.Limiter
	found   Scrubbing
	doubts  []digest.Digest // what could not be read
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
		return unseen // the disk reads nothing at all: that is no damage of contents
	}
	for _, d := range s.doubts {
		s.found.Damaged-- // it is counted again unless it was a bad moment
		s.check(ctx, d, s.drop)
	}
	return errors.Join(unseen, ctx.Err())
}

// check compares stored content with its digest, and tells of what cannot be
// read.
func (s *scrub) check(ctx context.Context, d digest.Digest, unreadable func(context.Context, digest.Digest, error)) {
	if s.limiter.WaitN(ctx, scrubSeek) != nil {
		return
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

// doubt puts off what cannot be read until it is known that the disk does not
// just have a bad moment.
func (s *scrub) doubt(_ context.Context, d digest.Digest, err error) {
	s.found.Damaged++
	if len(s.doubts) < scrubDoubts {
		s.doubts = append(s.doubts, d)
	}
	s.cache.trouble("scrub "+d.String(), err)
}

func (s *scrub) drop(ctx context.Context, d digest.Digest, why error) {
	s.found.Damaged++
	if s.cache.heal(ctx, d, why) {
		s.found.Healed++
	}
}
