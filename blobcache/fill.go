package blobcache

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/semaphore"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// fill is one transfer of one digest into a spool that many readers follow.
type fill struct {
	spool // what the readers see

	cache       *Cache
	key         fillKey
	digest      digest.Digest
	scope       string
	req         Request
	connections int // how many ranges may be fetched at once
	since       time.Time
	hash        hash.Hash
	meter       *meter
	onDisk      atomic.Int64 // bytes of the disk that the spool has taken
	stop        context.CancelCauseFunc
	left        chan struct{} // closed when the cache has forgotten the fill

	growing  *semaphore.Weighted // held while room is taken
	reserved reservation         // what the keeper holds free for the fill
	room     extents             // what of the content that is for
	come     int64               // bytes that have come
	noBlocks bool                // the disk takes none before they are written

	// Guarded by mu: what the workers agree on, and what the leader may have.
	etag   string  // of the source, for a resume
	single *worker // the only one that goes on asking, nil while all do
	best   float64 // bytes a second of the fastest connection
	handed *Body   // from the source's first byte, when there is no spool
	claims claims  // of the scopes that may have the content
	slot   *slot   // for the transfer; nil when it is over, or handed on
}

// newFill returns a fill that is held by its own run and by one reader to come.
func newFill(c *Cache, req Request) *fill {
	f := &fill{
		cache: c, digest: req.Digest, scope: req.Scope, req: req, connections: req.Connections, since: time.Now(),
		hash: req.Digest.Algorithm().Hash(), left: make(chan struct{}), growing: semaphore.NewWeighted(1),
	}
	if c.lied.Contains(req.shared()) || c.keeper.tooLarge(req.Size) || req.tooLarge(req.Size) {
		f.connections = 1
	}
	f.reserved.group = req.Group
	f.meter = newMeter(req.Source, func(err error) { f.stop(err) }, f.isRead)
	f.spool.init(2)
	return f
}

// run is the whole life of a fill. Readers get their last byte as soon as the
// digest matches; that the disk has it durably is only the cache's concern.
func (f *fill) run(ctx context.Context) {
	err := f.transfer(ctx)
	f.endTransfer()
	if err == nil {
		f.end(nil)
		f.claims.deliver(f.written)
		f.commit(ctx)
		f.cache.leave(f)
	} else {
		f.trim()
		f.settle(0)
		if errors.Is(err, errSpool) && !passedOn(err) {
			f.cache.keeper.failed(err)
			f.cache.trouble("spool "+f.digest.String(), err)
		}
		// Whoever learns of the failure and asks again must not find it here.
		f.cache.leave(f)
		f.end(err)
		store.Discard(f.file)
	}
	if done := f.cache.hooks.FillDone; done != nil {
		done(f.digest, f.written, time.Since(f.since), err)
	}
	f.letGo()
}

// commit stores what the fill has brought, unless it is stored already: another
// endpoint may have brought it first.
func (f *fill) commit(ctx context.Context) {
	one := &f.cache.committing[f.cache.slot(f.digest)]
	one.Lock()
	defer one.Unlock()
	if r := f.cache.open(ctx, f.digest, f.written); r != nil {
		_ = r.Close()
		f.settle(0)
		store.Discard(f.file)
		f.cache.keeper.used(f.digest, false)
		if f.req.Stored != nil {
			f.req.Stored(f.written)
		}
		return
	}
	if err := f.cache.blobs.Commit(ctx, f.digest, f.file); err != nil {
		f.settle(0)
		f.cache.keeper.failed(err)
		f.cache.trouble("store "+f.digest.String(), err)
		store.Discard(f.file)
		return
	}
	f.settle(f.written)
	if f.req.Stored != nil {
		f.req.Stored(f.written)
	}
}

// endTransfer gives back the slot of a transfer that has ended. If there is a body
// to be handed on, the slot goes with it.
func (f *fill) endTransfer() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.handed == nil {
		f.slot.release()
		f.slot = nil
	}
}

// isRead reports whether the fill has readers, or will have one at once.
func (f *fill) isRead() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.refs > 1
}

// transfer brings the whole content into the spool and verifies it. A source
// that breaks off is resumed, unless it never answered at all.
func (f *fill) transfer(ctx context.Context) error {
	length := int64(-1)
	if f.connections > 1 {
		length = f.cache.spans.first
	}
	body, err := fetch(ctx, f.req, f.meter, 0, length, "")
	if err != nil {
		return err
	}
	first, err := f.begin(ctx, body)
	if err != nil {
		return err
	}
	several := f.single == nil
	err = f.gather(ctx, first)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	if got := digest.NewDigest(f.digest.Algorithm(), f.hash); err == nil && got != f.digest {
		err = fmt.Errorf("%s: got %s: %w", f.digest, got, ErrDigestMismatch)
	}
	if errors.Is(err, ErrDigestMismatch) && several {
		// Perhaps the source only gets ranges wrong: the next fill will tell.
		f.cache.lied.Add(f.req.shared(), struct{}{})
	}
	return err
}

// begin opens the spool for the first body, and returns the worker that has it.
// Where there is no spool the body is for the leader.
func (f *fill) begin(ctx context.Context, body *Body) (*worker, error) {
	if f.req.Size >= 0 && body.Size >= 0 && body.Size != f.req.Size {
		_ = body.Close()
		return nil, fmt.Errorf("%s: the source says that it has %d bytes instead of %d: %w", f.digest, body.Size, f.req.Size, ErrDigestMismatch)
	}
	file, err := f.openSpool(ctx, body.Size)
	if err != nil {
		f.mu.Lock()
		f.handed = body
		f.mu.Unlock()
		return nil, fmt.Errorf("%w: %w", errSpool, err)
	}
	w := newWorker(f, body)
	f.etag = body.ETag
	if f.connections < 2 || body.Offset > 0 || body.End == 0 || body.End >= body.Size {
		f.single = w
	}
	f.claims.add(f.req)
	f.start(file, body.Size, body.Plain)
	return w, nil
}
