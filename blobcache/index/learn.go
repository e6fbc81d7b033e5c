package index

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// KeepPurges calls learn every ten seconds until ctx ends, if other processes share the
// records. Learn must call [Index.LearnPurges]. If KeepPurges is called several times, only
// one of the calls does this, and the others wait for its end.
func (x *Index) KeepPurges(ctx context.Context, learn func(context.Context)) {
	if x.shared == nil {
		return
	}
	select {
	case x.purges.turn <- struct{}{}:
	case <-ctx.Done():
		return
	}
	defer func() { <-x.purges.turn }()
	for learn(ctx); store.Pause(ctx, purgeInterval); learn(ctx) {
	}
}

// LearnPurges forgets what other processes that share the records have purged since the
// last call. It calls lost for each link. If the shared records cannot be read, which the
// storage reports, LearnPurges returns nil, and the next call does the work. If there are
// too many purges to read them all, it returns an error once.
func (x *Index) LearnPurges(ctx context.Context, lost func(digest.Digest)) error {
	if x.shared == nil {
		return nil
	}
	x.purges.mu.Lock()
	defer x.purges.mu.Unlock()
	changed, unseen, err := x.changedPurges(ctx)
	if err != nil {
		return nil
	}
	if err := x.catchUp(ctx, lost); err != nil {
		return err
	}
	for _, r := range changed {
		p, err := x.loadPurge(ctx, r)
		if err == nil && time.Since(p.At) < keepPurges && x.purges.note(p.Prefix, p.At) {
			err = x.forgetVoid(ctx, p.Prefix, p.At.Add(purgeSlack), lost)
		}
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		x.purges.seen[r.Key] = seenPurge{modified: r.Used}
	}
	x.cleanPurged(ctx)
	return unseen
}

// cleanPurged examines the shared records below the prefix of each purge, purgeReads of
// them in each call.
func (x *Index) cleanPurged(ctx context.Context) {
	for _, prefix := range x.purges.last.Keys() {
		p, ok := x.purges.last.Peek(prefix)
		if !ok || p.clean || time.Since(p.At) < cleanAfter {
			continue
		}
		last, err := x.cleanShared(ctx, prefix, p.cleaned)
		p.clean, p.cleaned = err == nil, last
		if now, ok := x.purges.last.Peek(prefix); ok && now.At.Equal(p.At) {
			x.purges.last.Add(prefix, p)
		}
		if err != nil {
			return // the next call goes on
		}
	}
}

// errMore ends a listing that has more shared records than are examined.
var errMore = errors.New("there are more records")

// changedPurges returns the records of purges that have been written since this process
// read them, the latest first and purgeReads at most. It also removes old ones. If it leaves
// out records, what was recorded before them counts as purged, and unseen is the error of
// leaveOut.
func (x *Index) changedPurges(ctx context.Context) (changed []store.Record, unseen, err error) {
	var all []store.Record
	listed := 0
	err = x.shared.ListShared(ctx, purgesFolder, func(r store.Record) error {
		if listed++; listed > maxListed {
			return errMore
		}
		if time.Since(r.Used) > keepPurges || !isPurgeKey(r.Key) {
			_ = x.records.Delete(ctx, r.Key) // the next call repeats it if it fails
			return nil
		}
		all = append(all, r)
		return nil
	})
	var left time.Time // when the latest of the records that are left out was written
	switch {
	case errors.Is(err, errMore):
		left = time.Now()
	case err != nil:
		return nil, nil, err
	}
	slices.SortFunc(all, func(a, b store.Record) int { return b.Used.Compare(a.Used) })
	seen := make(map[string]seenPurge)
	for _, r := range all {
		known := x.purges.seen[r.Key]
		isNew := !known.modified.Equal(r.Used)
		if len(seen) == maxPurges || isNew && len(changed) == purgeReads {
			if left.IsZero() {
				left = r.Used
			}
			continue
		}
		if seen[r.Key] = known; isNew {
			changed = append(changed, r)
		}
	}
	x.purges.seen = seen
	return changed, x.leaveOut(left), x.expirePurges(ctx)
}

// leaveOut makes void what was recorded before left, the time of the latest record of a purge
// that is not read. It is zero if all are read. The first of several calls with another time
// returns an error that describes this.
func (x *Index) leaveOut(left time.Time) error {
	if left.IsZero() {
		x.purges.unseen.Store(nil)
		return nil
	}
	left = left.Add(unseenSlack)
	x.forgetMemory("", left.Add(purgeSlack))
	if x.purges.unseen.Swap(&left) != nil {
		return nil
	}
	return fmt.Errorf("there are too many records of purges to read them at once; until they are read or are a week old, "+
		"records from before %s are ignored, and the upstreams are asked again", left.UTC().Format(time.RFC3339))
}

// expirePurges removes old purges from memory and from the local records.
func (x *Index) expirePurges(ctx context.Context) error {
	for _, prefix := range x.purges.last.Keys() {
		if p, ok := x.purges.last.Peek(prefix); ok && time.Since(p.At) > keepPurges {
			x.purges.last.Remove(prefix)
		}
	}
	return x.records.List(ctx, purgesFolder, func(r store.Record) error {
		if time.Since(r.Used) > keepPurges {
			return x.records.Delete(ctx, r.Key)
		}
		return nil
	})
}

// loadPurge reads the record of a purge. The error is fs.ErrNotExist if it cannot be read
// now. After purgeTries attempts, a record that no process is known to have written is not
// read again. It is removed if it is certain that no process has written it.
func (x *Index) loadPurge(ctx context.Context, r store.Record) (p purge, err error) {
	data, err := x.shared.Reload(ctx, r.Key)
	if err == nil && (json.Unmarshal(data, &p) != nil || purgeKey(p.Prefix) != r.Key) {
		err = fs.ErrNotExist
	}
	if errors.Is(err, store.ErrDamaged) {
		_ = x.records.Delete(ctx, r.Key) // repeated later if it fails
	}
	if known := x.purges.seen[r.Key]; errors.Is(err, fs.ErrNotExist) { // the storage does not fail
		if known.tries++; known.tries >= purgeTries {
			known = seenPurge{modified: r.Used}
		}
		x.purges.seen[r.Key] = known
	}
	if err != nil {
		return p, fs.ErrNotExist
	}
	if now := time.Now(); p.At.After(now) {
		p.At = now
	}
	return p, nil
}

// catchUp forgets what may have been purged while this process could not learn that for
// longer than purges are kept.
func (x *Index) catchUp(ctx context.Context, lost func(digest.Digest)) error {
	now, p := time.Now(), &x.purges
	if p.until.IsZero() {
		if data, err := x.records.Load(ctx, purgesUntil); err == nil {
			p.until, _ = time.Parse(time.RFC3339, string(data))
		}
	}
	if gap := now.Sub(p.until); !p.until.IsZero() && gap > keepPurges {
		if err := x.forgetVoid(ctx, "", now.Add(-keepPurges), lost); err != nil {
			return err
		}
	} else if gap < untilStride {
		return nil
	}
	p.until = now
	return x.records.Save(ctx, purgesUntil, []byte(now.UTC().Format(time.RFC3339)))
}

// forgetVoid removes links and refs below a prefix here that were recorded before a time.
// It reads all of them.
func (x *Index) forgetVoid(ctx context.Context, prefix string, before time.Time, lost func(digest.Digest)) error {
	x.forgetMemory(prefix, before)
	for _, folder := range []string{linksFolder, refsFolder} {
		err := x.records.List(ctx, strings.TrimSuffix(below(folder, prefix), "/"), store.Paced(ctx, store.WalkStride, func(r store.Record) error {
			data, err := x.records.Load(ctx, r.Key)
			if err != nil || !recordedAt(r.Key, data).Before(before) {
				return nil
			}
			if _, d, ok := parseLinkKey(r.Key); ok {
				lost(d)
			}
			return x.shared.Forget(ctx, r.Key)
		}))
		if err != nil {
			return err
		}
	}
	if x.Purged != nil && prefix != "" {
		x.Purged(prefix)
	}
	return nil
}

// cleanShared removes shared records below a prefix that others have written before they
// knew of a purge, or that no process has written. There are few, because the process that
// has purged has removed all others. It returns the last key that it has examined, and
// errMore if there may be more.
func (x *Index) cleanShared(ctx context.Context, prefix, after string) (last string, err error) {
	reads := 0
	for _, folder := range []string{linksFolder, refsFolder} {
		err := x.shared.ListShared(ctx, folder+"/"+prefix, store.Paced(ctx, store.WalkStride, func(r store.Record) error {
			if r.Key <= after || x.links.Contains(r.Key) || x.refs.Contains(r.Key) {
				return nil // it has been examined, or is about to be replaced
			}
			if reads++; reads > purgeReads {
				return errMore
			}
			last = r.Key
			data, err := x.shared.Reload(ctx, r.Key)
			if !errors.Is(err, store.ErrDamaged) && (err != nil || !x.purges.void(scopeOf(r.Key), recordedAt(r.Key, data))) {
				return nil
			}
			return x.records.Delete(ctx, r.Key)
		}))
		if err != nil {
			return cmp.Or(last, after), err
		}
	}
	return last, nil
}
