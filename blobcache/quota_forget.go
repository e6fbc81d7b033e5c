package blobcache

import (
	"context"
	"errors"
	"io/fs"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// idleAfter is how long a link or a ref is kept after its content has gone.
	// Nothing is lost with it: who wants the content must ask the source
	// anyway. Kept for ever, they would be what fills the disk in the end.
	idleAfter = 24 * time.Hour

	// idleLimit is how many links one round forgets at most.
	idleLimit = 16 << 10

	// refsInterval is how often refs are looked at: each must be read.
	refsInterval = 24 * time.Hour
)

// forget removes the links and refs of content that has gone. If there is no
// content at all, it is more likely that a disk is missing.
func (q *Quotas) forget(ctx context.Context, m *measurement) error {
	stored := 0
	for _, total := range m.totals {
		stored += total.Blobs
	}
	if stored == 0 || !m.trusted {
		return nil
	}
	for _, l := range m.idle {
		if err := q.index.DropLink(ctx, l.Scope, l.Digest); err != nil {
			return err
		}
	}
	if m.began.Sub(q.swept) < refsInterval {
		return nil
	}
	q.swept = m.began
	return q.index.Forget(ctx, m.began.Add(-idleAfter), func(d digest.Digest) bool { return q.isGone(ctx, d) })
}

// isGone reports whether content is certainly not stored.
func (q *Quotas) isGone(ctx context.Context, d digest.Digest) bool {
	_, err := q.cache.blobs.Stat(ctx, d)
	return errors.Is(err, fs.ErrNotExist)
}
