package blobcache

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"time"
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
	for _, key := range m.idle {
		if err := q.index.dropLink(ctx, key); err != nil {
			return err
		}
	}
	if m.began.Sub(q.swept) < refsInterval {
		return nil
	}
	q.swept = m.began
	if err := q.forgetDeliveries(ctx, m); err != nil {
		return err
	}
	visited := 0
	return q.index.records.List(ctx, refsFolder, func(r Record) error {
		if visited++; visited%sweepStride == 0 && !pause(ctx, sweepPause) {
			return ctx.Err()
		}
		if m.began.Sub(r.Used) <= idleAfter || !q.idleRef(ctx, r.Key) {
			return nil
		}
		return q.index.dropRef(ctx, r.Key)
	})
}

// idleRef tells whether a ref stands for content that has gone.
func (q *Quotas) idleRef(ctx context.Context, key string) bool {
	data, err := q.index.records.Load(ctx, key)
	var ref Ref
	if err != nil || json.Unmarshal(data, &ref) != nil || ref.Digest.Validate() != nil {
		return err == nil // what cannot be read stands for nothing
	}
	_, err = q.cache.blobs.Stat(ctx, ref.Digest)
	return errors.Is(err, fs.ErrNotExist)
}
