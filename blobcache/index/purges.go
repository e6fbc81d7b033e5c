package index

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"strings"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

const (
	// purgesFolder has a record for each prefix that was purged, if other processes
	// share the records. purgesUntil is the record, which is not shared, of when this
	// process has last learnt what others have purged, to an hour.
	purgesFolder = "purges"
	purgesUntil  = "learnt/purges"
	untilStride  = time.Hour

	// purgeInterval is how often a process looks for purges of others.
	purgeInterval = 10 * time.Second

	// keepPurges is how long a purge is known. A process that was away for longer forgets
	// all older records.
	keepPurges = 7 * 24 * time.Hour

	// purgeSlack is the tolerated difference between the clocks of two processes: what was
	// recorded up to purgeSlack after a purge is void too, which costs a question to the
	// source.
	purgeSlack = 5 * time.Second

	// cleanAfter is how long after a purge a process looks for shared records that others
	// have written before they knew of it.
	cleanAfter = time.Minute

	// maxPurges bounds the purges in memory, some 2 MiB. The oldest ones go first.
	maxPurges = 8 << 10

	// purgeTries is the number of attempts to read the record of a purge.
	purgeTries = 3
)

// purge is the record of a purge of the links and refs below a prefix.
type purge struct {
	Prefix string    `json:"prefix"` // as for Index.Purge
	At     time.Time `json:"at"`

	clean bool // the shared records have been looked through since
}

func purgeKey(prefix string) string {
	sum := sha256.Sum256([]byte(prefix))
	return purgesFolder + "/" + hex.EncodeToString(sum[:])
}

// purges are the purges of the last days.
type purges struct {
	last *lru.Cache[string, purge] // by prefix
	turn chan struct{}             // of KeepPurges

	mu    sync.Mutex           // of what follows
	seen  map[string]seenPurge // by key: what the shared records have
	until time.Time            // when they were listed
}

// seenPurge is a version of the record of a purge.
type seenPurge struct {
	modified time.Time
	tries    int // to read it, that have failed
}

// note adds a purge. It reports whether it is later than what was known.
func (p *purges) note(prefix string, at time.Time) bool {
	if known, ok := p.last.Peek(prefix); ok && !at.After(known.At) {
		return false
	}
	p.last.Add(prefix, purge{Prefix: prefix, At: at})
	return true
}

// latest returns when a scope was purged last, or the zero time.
func (p *purges) latest(scope string) (at time.Time) {
	if p.last.Len() == 0 {
		return at
	}
	look := func(prefix string) bool {
		if known, ok := p.last.Peek(prefix); ok && known.At.After(at) {
			at = known.At
		}
		return true
	}
	Owners(scope, look)
	look(scope + "/_")
	return at
}

// void reports whether what was recorded for a scope at a time has been purged since.
func (p *purges) void(scope string, at time.Time) bool {
	purged := p.latest(scope)
	return !purged.IsZero() && at.Before(purged.Add(purgeSlack))
}

// announce notes that what is below a prefix is void, and tells the processes that share
// the records.
func (x *Index) announce(ctx context.Context, prefix string) error {
	now := time.Now()
	x.purges.note(prefix, now)
	if x.shared == nil {
		return nil
	}
	return save(ctx, x.records, purgeKey(prefix), purge{Prefix: prefix, At: now})
}

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
// storage reports, LearnPurges returns nil, and the next call does the work.
func (x *Index) LearnPurges(ctx context.Context, lost func(digest.Digest)) error {
	if x.shared == nil {
		return nil
	}
	x.purges.mu.Lock()
	defer x.purges.mu.Unlock()
	changed, err := x.changedPurges(ctx)
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
	for _, prefix := range x.purges.last.Keys() {
		if p, ok := x.purges.last.Peek(prefix); ok && !p.clean && time.Since(p.At) > cleanAfter && x.cleanShared(ctx, prefix) == nil {
			p.clean = true
			x.purges.last.Add(prefix, p)
		}
	}
	return nil
}

// changedPurges returns the records of purges that were written since they were read, and
// removes old ones.
func (x *Index) changedPurges(ctx context.Context) (changed []store.Record, err error) {
	seen := make(map[string]seenPurge)
	err = x.shared.ListShared(ctx, purgesFolder, func(r store.Record) error {
		if time.Since(r.Used) > keepPurges {
			return x.records.Delete(ctx, r.Key)
		}
		known := x.purges.seen[r.Key]
		if seen[r.Key] = known; !known.modified.Equal(r.Used) {
			changed = append(changed, r)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	x.purges.seen = seen
	if err := x.records.List(ctx, purgesFolder, func(r store.Record) error {
		if time.Since(r.Used) > keepPurges {
			return x.records.Delete(ctx, r.Key)
		}
		return nil
	}); err != nil {
		return nil, err
	}
	for _, prefix := range x.purges.last.Keys() {
		if p, ok := x.purges.last.Peek(prefix); ok && time.Since(p.At) > keepPurges {
			x.purges.last.Remove(prefix)
		}
	}
	return changed, nil
}

// loadPurge reads the record of a purge. The error is fs.ErrNotExist if it cannot be read
// now; a record that could not be read several times is not read again.
func (x *Index) loadPurge(ctx context.Context, r store.Record) (p purge, err error) {
	data, err := x.shared.Reload(ctx, r.Key)
	if err == nil && (json.Unmarshal(data, &p) != nil || purgeKey(p.Prefix) != r.Key) {
		err = fs.ErrNotExist
	}
	if err != nil {
		known := x.purges.seen[r.Key]
		if known.tries++; known.tries >= purgeTries {
			known = seenPurge{modified: r.Used}
		}
		x.purges.seen[r.Key] = known
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
// knew of a purge. There are few: the process that has purged has removed the others.
func (x *Index) cleanShared(ctx context.Context, prefix string) error {
	for _, folder := range []string{linksFolder, refsFolder} {
		err := x.shared.ListShared(ctx, folder+"/"+prefix, store.Paced(ctx, store.WalkStride, func(r store.Record) error {
			data, err := x.shared.Reload(ctx, r.Key)
			if err != nil || !x.purges.void(scopeOf(r.Key), recordedAt(r.Key, data)) || x.links.Contains(r.Key) || x.refs.Contains(r.Key) {
				return nil // or it is about to be replaced
			}
			return x.records.Delete(ctx, r.Key)
		}))
		if err != nil {
			return err
		}
	}
	return nil
}
