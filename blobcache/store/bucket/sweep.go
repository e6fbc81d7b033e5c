package bucket

import (
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/time/rate"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

const (
	// usesInterval is how often a node reports what it has used, and looks whether the
	// bucket is to be swept. The first time is at random in the first usesInterval, so
	// that nodes that start together do not sweep together; it does no harm if they do.
	usesInterval = time.Hour

	// sweepInterval is the time between sweeps by any nodes. A sweep waits for the
	// reports of nodes that have reported in the last sweepWait and are overdue, but not
	// longer than sweepWait after the last one, so that limits hold within a day.
	sweepInterval = 12 * time.Hour
	sweepWait     = day
	overdue       = 3 * usesInterval

	// sweepLimit is how long a sweep may take.
	sweepLimit = day

	// sweepRate is the number of requests to the bucket per second in a sweep, and
	// listPage the number of objects in the answer to one that lists.
	sweepRate = 50
	listPage  = 1000

	// youngFor is how long content stays that was uploaded or used, whatever the limits
	// are.
	youngFor = 2 * time.Hour

	// keepUses is how long reports are kept if UnusedFor is shorter.
	keepUses = 30 * day

	// sweptName is an object that is written at the end of each sweep.
	sweptName = "swept"
)

// sweeping is a sweep. It has 16 bytes in memory for each content in the bucket and 8 for
// each that is in use: 24 MB for a million of both, and up to twice that for a moment.
type sweeping struct {
	*Store
	began  time.Time // by the clock of the bucket
	limit  *rate.Limiter
	quotas quotas

	read   map[string]report // by name
	uses   uses
	stored contents
	lost   bits // positions in stored of content whose last links were removed for a quota
	young  uint64

	skipped int  // objects that could not be removed, or read
	stuck   bool // no sweep has succeeded for idleFor, or ever: the bucket must not grow for ever

	result sweepResult
}

// sweepResult is what a sweep has found and done.
type sweepResult struct {
	Stored, Removed           int   // contents
	StoredBytes, RemovedBytes int64 // their sizes
	Records                   int   // links, deliveries and refs that were removed
	Uploads                   int   // that were never completed, and were removed
}

// isLimited reports whether something limits what is in the bucket.
func (s *Store) isLimited() bool {
	return s.config.MaxSize > 0 || s.config.UnusedFor > 0 || len(s.currentQuotas()) > 0
}

// keepSwept reports what is used, and sweeps the bucket when no other node has, until
// ctx ends.
func (s *Store) keepSwept(ctx context.Context) {
	wait := rand.N(usesInterval)
	for store.Pause(ctx, wait) {
		wait = usesInterval
		if s.isLimited() {
			if err := s.saveUses(ctx, time.Now()); err != nil && ctx.Err() == nil {
				s.config.StorageError("report what is used", err)
			}
		}
		if _, err := s.sweep(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, errNotDue) {
			s.config.StorageError("sweep the bucket", err)
		}
	}
}

// errNotDue means that a sweep has nothing to do yet.
var errNotDue = errors.New("the bucket has been swept by a node, or another node is to report first what it uses")

// sweep removes from the bucket what no node has used for UnusedFor, the least recently
// used content until MaxSize and the quotas of [Store.LimitOwners] hold, the links and
// deliveries of content that has gone, and parts of uploads that were never completed.
// It does nothing if the bucket was swept lately. A sweep that ends early is done again
// later, and has less to do then.
func (s *Store) sweep(ctx context.Context) (sweepResult, error) {
	ctx, cancel := context.WithTimeout(ctx, sweepLimit)
	defer cancel()
	w := &sweeping{Store: s, read: make(map[string]report), limit: rate.NewLimiter(rate.Limit(s.config.waits.sweepRate), 1), quotas: s.currentQuotas()}
	last, err := w.client.stat(ctx, sweptName)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return sweepResult{}, err
	}
	w.began = w.bucketNow()
	w.young = hourOf(w.began.Add(-youngFor))
	if w.began.Sub(last.modified) < sweepInterval {
		return sweepResult{}, errNotDue
	}
	w.stuck = w.began.Sub(last.modified) > idleFor
	if err := w.sweepContent(ctx, last.modified); err != nil {
		return w.result, err
	}
	if err := w.sweepUploads(ctx); err != nil {
		if ctx.Err() != nil {
			return w.result, err
		}
		s.config.StorageError("remove uploads to the bucket that were not completed", err) // it may not be permitted
	}
	w.unread.Store(0)
	return w.result, w.client.putBytes(ctx, sweptName, nil)
}

// sweepContent sweeps the content and its records.
func (w *sweeping) sweepContent(ctx context.Context, last time.Time) error {
	if !w.isLimited() {
		return nil
	}
	reports, err := w.listReports(ctx, max(w.config.UnusedFor, keepUses)+2*day)
	if err != nil {
		return err
	}
	horizon, waits := w.horizon(ctx, reports)
	if waits && !last.IsZero() && w.began.Sub(last) < sweepWait {
		return errNotDue
	}
	if err := w.readUses(ctx, reports, time.Time{}); err != nil {
		return err
	}
	if err := w.readLocal(ctx); err != nil {
		return err
	}
	old, err := w.listStored(ctx, horizon)
	if err != nil || len(w.stored) == 0 {
		return err // if nothing is stored, a listing that fails is more likely
	}
	if err := w.sweepRecords(ctx); err != nil {
		return err
	}
	// The listings took a while, in which other nodes may have reported more.
	if reports, err = w.listReports(ctx, max(w.config.UnusedFor, keepUses)+2*day); err != nil {
		return err
	}
	if err := w.readUses(ctx, reports, w.began.Add(-time.Minute)); err != nil {
		return err
	}
	if err := w.removeStored(ctx, old); err != nil {
		return err
	}
	if err := w.mergeReports(ctx); err != nil {
		if ctx.Err() != nil {
			return err
		}
		w.config.StorageError("merge what was used in the bucket", err) // it may be full
	}
	return w.sweepRefs(ctx)
}

// horizon returns the time until which all other nodes have reported what they use, by
// the clock of the bucket, and whether one of them is overdue. Nodes that have not
// reported for sweepWait are gone.
func (w *sweeping) horizon(ctx context.Context, reports []report) (until time.Time, waits bool) {
	self, _ := w.nodeName(ctx)
	latest := make(map[string]time.Time)
	for _, r := range reports {
		if !r.merged && r.node != self && r.modified.After(latest[r.node]) {
			latest[r.node] = r.modified
		}
	}
	until = w.began
	for _, at := range latest {
		if ago := w.began.Sub(at); ago < sweepWait {
			waits = waits || ago > overdue
			if at.Before(until) {
				until = at
			}
		}
	}
	return until, waits
}

// listStored notes the content in the bucket, and returns the cuts of it that are to go.
func (w *sweeping) listStored(ctx context.Context, horizon time.Time) (old []cut, err error) {
	by := make(ages)
	err = w.list(ctx, "blobs/", func(name string, o object) error {
		d, ok := parseBlobName(name)
		if !ok {
			return nil // not one of ours
		}
		c := w.contentOf(d, o)
		if w.stored = append(w.stored, c); len(w.stored) > maxKnown {
			return errTooMany
		}
		by[c.hour()] += c.size
		w.result.Stored++
		w.result.StoredBytes += c.size
		return nil
	})
	w.stored.sort()
	w.lost = newBits(len(w.stored))
	if w.config.UnusedFor > 0 {
		old = append(old, before(min(hourOf(horizon.Add(-w.config.UnusedFor)), w.young)))
	}
	if total := w.result.StoredBytes; w.config.MaxSize > 0 && total > w.config.MaxSize {
		old = append(old, by.oldest(total-w.config.MaxSize/20*19, w.young))
	}
	return old, err
}

// contentOf describes content in the bucket. It was last used when it was uploaded,
// unless there is a later use.
func (w *sweeping) contentOf(d digest.Digest, o object) content {
	key := keyOf(d)
	return content{key | max(hourOf(o.modified), w.uses.hour(key)), o.size}
}

// removeStored removes the content of the cuts, and that which has lost its links.
func (w *sweeping) removeStored(ctx context.Context, old []cut) error {
	return w.list(ctx, "blobs/", func(name string, o object) error {
		d, ok := parseBlobName(name)
		if !ok {
			return nil
		}
		c := w.contentOf(d, o)
		i, known := w.stored.find(keyOf(d))
		victim := known && w.lost.has(i) && c.hour() < w.young
		for j := range old {
			victim = old[j].takes(c) || victim
		}
		if !victim || w.isUsedHere(ctx, d) {
			return nil
		}
		// It may have been uploaded since the listing. The removal follows at once, so that
		// there is little time for another upload.
		if err := w.pace(ctx); err != nil {
			return err
		}
		now, err := w.statPaced(ctx, name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && now.modified.After(o.modified) {
			return nil
		}
		if err == nil {
			err = w.client.remove(ctx, name)
		}
		if err == nil && o.size > w.config.partSize {
			w.verified.Forget(d.String())
			err = w.remove(ctx, verifiedKey(d))
		}
		if err != nil {
			return w.skip(err)
		}
		w.result.Removed++
		w.result.RemovedBytes += o.size
		return nil
	})
}

// isUsedHere reports whether content was stored or used here a short while ago.
func (w *sweeping) isUsedHere(ctx context.Context, d digest.Digest) bool {
	e, err := w.FileStore.Stat(ctx, d)
	return err == nil && time.Since(e.Used) < youngFor
}

// parseBlobName is the reverse of blobName.
func parseBlobName(name string) (digest.Digest, bool) {
	parts := strings.Split(name, "/")
	if len(parts) != 4 {
		return "", false
	}
	d := digest.NewDigestFromEncoded(digest.Algorithm(parts[1]), parts[3])
	return d, d.Validate() == nil && blobName(d) == name
}
