package fill

import (
	"context"
	"errors"
	"hash/maphash"
	"maps"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
)

// Table holds the running fills of a cache. It is safe for concurrent use.
type Table struct {
	config   Config
	slots    *slots
	noRanges *lru.Cache[fillKey, struct{}] // content whose ranges did not fit together

	distrusted *lru.Cache[digest.Digest, struct{}] // content for which replicas are not asked

	committing [256]sync.Mutex // by slot of the digest

	mu    sync.Mutex
	fills map[fillKey]*fill
	ended [256]uint64 // how many fills have ended, by slot of their digest
	seed  maphash.Seed
}

// noRangesEntries and distrustedEntries bound how much content the table remembers that
// must not be fetched in ranges, or from replicas.
const (
	noRangesEntries   = 1024
	distrustedEntries = 1024
)

// NewTable returns a table without fills.
func NewTable(config Config) *Table {
	noRanges, err1 := lru.New[fillKey, struct{}](noRangesEntries)
	distrusted, err2 := lru.New[digest.Digest, struct{}](distrustedEntries)
	if err := errors.Join(err1, err2); err != nil {
		panic(err) // the sizes are positive constants
	}
	return &Table{
		config: config, slots: newSlots(), noRanges: noRanges, distrusted: distrusted,
		fills: make(map[fillKey]*fill), seed: maphash.MakeSeed(),
	}
}

// fillKey identifies a fill that all requests of an endpoint may share, or one
// of a single scope.
type fillKey struct {
	endpoint string
	digest   digest.Digest
	own      bool
	scope    string
}

// sharing says which fills of other scopes of its endpoint a request may share.
type sharing int

const (
	always   sharing = iota
	answered         // those whose source has answered: else the scopes of a dead source would time out in turn
	never
)

// Get returns a reader of the fill that downloads the content, which it starts if
// there is none. Before that it calls stored for content that the request may have
// without one; if that finds the content, the reader is nil and the origin [Hit].
// The caller must close the reader. The error is the source's, ctx's, that of
// stored, or [ErrBusy].
func (t *Table) Get(ctx context.Context, req Request, stored func(context.Context, Request, Standing) (found bool, err error)) (*Follower, Origin, error) {
	for share := always; ; {
		ended := t.endedFills(req.Digest)
		standing := req.standing(ctx)
		if standing.Linked || standing.Delivered {
			req.Size = standing.Size
		}
		if standing.Linked || standing.Delivered && share != never {
			found, err := stored(ctx, req, standing)
			if !errors.Is(err, ErrUnconfirmed) && (found || err != nil) {
				return nil, Hit, err
			}
			if err != nil {
				share = never
			}
		}
		req.replicas = t.withReplicas(&req, standing, share)
		f, started, err := t.join(ctx, req, ended, share)
		if err != nil {
			return nil, Started, err
		}
		if f == nil {
			continue
		}
		following := ctx
		if !started {
			following = f.req.replicas.follow(ctx, req.Circular)
		}
		if context.Cause(following) == ErrCircular {
			f.release()
			return nil, Joined, ErrCircular
		}
		r, origin, err := f.reader(following, req, started)
		if errors.Is(err, ErrCircular) {
			return nil, origin, err
		}
		if err == nil && origin == Joined {
			if err = f.admit(ctx, req, standing); err == nil {
				t.config.Hooks.joined(req.Digest)
				f.linkFrom(ctx)
				return r, origin, nil
			}
			_ = r.Close()
			if !errors.Is(err, ErrUnconfirmed) {
				return nil, origin, err
			}
			share = never
			continue
		}
		if err == nil || origin == Started || f.scope == req.Scope || ctx.Err() != nil {
			return r, origin, err
		}
		// Another scope's fill failed, perhaps because it lacks a right that
		// this scope has. Waiting for one such failure is enough.
		share = max(share, answered)
	}
}

// Lock locks the storing of content, so that the same content is stored once.
func (t *Table) Lock(d digest.Digest) (unlock func()) {
	one := &t.committing[t.slot(d)]
	one.Lock()
	return one.Unlock
}

// join returns the running fill for a request, or starts one. The caller gets a
// reference to the fill, which its reader takes over. The result is nil if
// fills have ended since the caller looked into the store, which may have the
// content by now. A request that may not share another scope's fill gets one of
// its own scope. The error is [ErrBusy] if no further fill may be started.
func (t *Table) join(ctx context.Context, req Request, ended uint64, share sharing) (f *fill, started bool, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := req.shared()
	f = t.fills[key]
	if f != nil && f.scope != req.Scope && (share == never || share == answered && !f.answered()) {
		key.own, key.scope = true, req.Scope
		f = t.fills[key]
	}
	if f != nil && f.acquire() {
		return f, false, nil
	}
	if t.ended[t.slot(req.Digest)] != ended {
		return nil, false, nil
	}
	slot, err := t.slots.take(&req)
	if err != nil {
		return nil, false, err
	}
	f = newFill(t, req)
	f.key, f.slot = key, slot
	t.fills[key] = f
	// The fill serves all who request the digest, so it must not end with the
	// first request.
	ctx, f.span = startSpan(context.WithoutCancel(ctx), req.Digest)
	ctx, f.stop = context.WithCancelCause(ctx)
	go f.run(ctx)
	return f, true, nil
}

func (t *Table) leave(f *fill) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended[t.slot(f.digest)]++
	if t.fills[f.key] == f { // and not one that has taken an abandoned one's place
		delete(t.fills, f.key)
	}
	close(f.left)
}

// Filling reports whether content is being downloaded, or is verified and not
// stored yet.
func (t *Table) Filling(d digest.Digest) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for key := range t.fills {
		if key.digest == d {
			return true
		}
	}
	return false
}

func (t *Table) endedFills(d digest.Digest) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.ended[t.slot(d)]
}

// slot maps a digest to one of a few counters, so that fills of other digests
// rarely send a request back to the store.
func (t *Table) slot(d digest.Digest) uint64 {
	return maphash.String(t.seed, string(d)) % uint64(len(t.ended))
}

// Progress describes a running fill.
type Progress struct {
	Digest  digest.Digest
	Size    int64 // of the content in bytes, -1 if not known
	Written int64 // bytes that have come
	Readers int   // requests that follow it
	Since   time.Time
}

// Fills returns the running fills, the oldest first, including those that are
// verified and not stored yet.
func (t *Table) Fills() []Progress {
	t.mu.Lock()
	fills := slices.Collect(maps.Values(t.fills))
	t.mu.Unlock()
	snapshots := make([]Progress, 0, len(fills))
	for _, f := range fills {
		f.mu.Lock()
		snapshots = append(snapshots, Progress{f.digest, f.size, f.written, max(f.refs-1, 0), f.since})
		f.mu.Unlock()
	}
	slices.SortFunc(snapshots, func(a, b Progress) int { return a.Since.Compare(b.Since) })
	return snapshots
}

// Flush waits until all verified content is stored, or until ctx ends. It does
// not wait for running transfers.
func (t *Table) Flush(ctx context.Context) {
	t.mu.Lock()
	fills := slices.Collect(maps.Values(t.fills))
	t.mu.Unlock()
	for _, f := range fills {
		if !f.verified() {
			continue
		}
		select {
		case <-f.left:
		case <-ctx.Done():
			return
		}
	}
}
