package blobcache

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"golang.org/x/time/rate"
)

const (
	// scrubRate is how many bytes a second are read to look for damage: a
	// terabyte in a day and a half.
	scrubRate = 8 << 20

	// scrubRest is how long after one scrub the next one begins.
	scrubRest = 7 * 24 * time.Hour
)

// scrub reads all stored content, slowly, and drops what has lost its digest:
// the next pull fetches it again. Each scrub begins somewhere else, so that
// what a restart keeps it from reaching is not always the same.
func (c *Cache) scrub(ctx context.Context) {
	limiter := rate.NewLimiter(scrubRate, copyBuffer)
	for {
		start := fmt.Sprintf("%02x", rand.IntN(256))
		for _, second := range []bool{false, true} {
			err := c.keeper.shelf.Walk(ctx, func(e Entry) error {
				if (e.Digest.Encoded() < start) == second {
					c.check(ctx, e, limiter)
				}
				return ctx.Err()
			})
			if err != nil && ctx.Err() == nil {
				c.trouble("scrub", err)
			}
		}
		select {
		case <-time.After(scrubRest):
		case <-ctx.Done():
			return
		}
	}
}

// check compares stored content with its digest. What cannot be read is left
// to whoever asks for it: the disk may have a bad moment.
func (c *Cache) check(ctx context.Context, e Entry, limiter *rate.Limiter) {
	file, err := c.store.Open(ctx, e.Digest)
	if err != nil {
		return
	}
	defer file.Close()
	hash := e.Digest.Verifier()
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for {
		n, err := file.Read(*buf)
		hash.Write((*buf)[:n])
		if err == io.EOF {
			break
		}
		if err != nil {
			c.trouble("scrub "+e.Digest.String(), err)
			return
		}
		if limiter.WaitN(ctx, n) != nil {
			return
		}
	}
	if !hash.Verified() {
		c.trouble("scrub", fmt.Errorf("%s: %w; it will be fetched again", e.Digest, ErrDigestMismatch))
		c.remove(ctx, e.Digest)
	}
}
