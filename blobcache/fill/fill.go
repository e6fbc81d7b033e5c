package fill

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/semaphore"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// fill is one transfer of one digest into a spool that many readers follow.
type fill struct {
	spool // what the readers see

	table       *Table
	key         fillKey
	digest      digest.Digest
	scope       string
	req         Request
	connections int // how many ranges may be fetched at once
	since       time.Time
	hash        hash.Hash
	meter       *meter
	span        trace.Span   // never nil
	onDisk      atomic.Int64 // bytes of the disk that the spool has taken
	stop        context.CancelCauseFunc
	left        chan struct{} // closed when the cache has forgotten the fill

	growing  *semaphore.Weighted // held while room is reserved
	reserved Reservation         // of room for the content
	held     int64               // bytes reserved, which count against quotas
	room     extents             // parts of the content for which room is reserved
	received int64               // bytes
	noBlocks bool                // the disk allocates no blocks ahead of writing

	// Guarded by mu: the state that the workers share, and what the request
	// that started the fill may take over.
	etag     string  // of the source, for a resume
	single   *worker // the only one that goes on asking, nil while all do
	best     float64 // bytes a second of the fastest connection
	handOver *Body   // the whole response body, if no spool could be created
	claims   claims  // of the scopes that may have the content
	slot     *slot   // for the transfer; nil when it is over, or handed on
}

// newFill returns a fill with two references: for its own run, and for the
// first reader.
func newFill(t *Table, req Request) *fill {
	f := &fill{
		table: t, digest: req.Digest, scope: req.Scope, req: req, connections: req.Connections, since: time.Now(),
		hash: req.Digest.Algorithm().Hash(), left: make(chan struct{}), growing: semaphore.NewWeighted(1),
	}
	expected := req.expected()
	if t.noRanges.Contains(req.shared()) || req.Size > t.config.Room.Largest(req.Limit) || expected >= 0 && expected <= t.config.Spans.First {
		f.connections = 1
	}
	f.reserved = t.config.Room.Open(req.Group)
	f.meter = newMeter(&f.req, func(err error) { f.stop(err) }, f.isRead)
	f.spool.init(2)
	return f
}

// run transfers, verifies and stores the content. Readers get their last byte
// as soon as the digest matches; they do not wait for the disk.
func (f *fill) run(ctx context.Context) {
	err := f.transfer(ctx)
	f.endTransfer()
	if err == nil {
		f.complete()
		f.claims.deliver(f.written)
		f.commit(ctx)
		f.table.leave(f)
	} else {
		f.trim()
		f.settle(0)
		if errors.Is(err, errSpool) && !passedOn(err) {
			f.table.config.Room.Failed(err)
			f.table.config.Hooks.storageError("spool "+f.digest.String(), err)
		}
		// A request that learns of the failure and asks again must not find
		// this fill.
		f.table.leave(f)
		f.fail(err)
		store.Discard(f.file)
	}
	if done := f.table.config.Hooks.Done; done != nil {
		done(f.digest, f.written, time.Since(f.since), err)
	}
	f.endSpan(err)
	f.release()
}

// commit stores the content unless it is stored already, for example by a fill
// of another endpoint.
func (f *fill) commit(ctx context.Context) {
	defer f.table.Lock(f.digest)()
	if f.table.config.IsStored(ctx, f.digest, f.written) {
		f.settle(0)
		store.Discard(f.file)
		if f.req.Stored != nil {
			f.req.Stored(f.written)
		}
		return
	}
	if err := f.table.config.Blobs.Commit(ctx, f.digest, f.file); err != nil {
		f.settle(0)
		f.table.config.Room.Failed(err)
		f.table.config.Hooks.storageError("store "+f.digest.String(), err)
		store.Discard(f.file)
		return
	}
	f.settle(f.written)
	if f.req.Stored != nil {
		f.req.Stored(f.written)
	}
}

// endTransfer releases the slot of a transfer that has ended, unless the slot
// goes to the request that takes over the body.
func (f *fill) endTransfer() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.handOver == nil {
		f.slot.release()
		f.slot = nil
	}
}

// isRead reports whether the fill has readers, or is about to get its first.
func (f *fill) isRead() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.refs > 1
}

// transfer downloads the whole content into the spool and verifies it. If replicas have
// sent some of it and it does not match its digest, transfer begins anew without them,
// unless readers have had bytes.
func (f *fill) transfer(ctx context.Context) error {
	err := f.attempt(ctx)
	if errors.Is(err, ErrDigestMismatch) && f.req.replicas.mismatched(err) && f.restart() {
		err = f.attempt(ctx)
	}
	return err
}

// attempt downloads the content. A source that breaks off is asked to resume, unless it
// never answered at all.
func (f *fill) attempt(ctx context.Context) error {
	length := int64(-1)
	if f.connections > 1 {
		length = f.table.config.Spans.First
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
	err = f.download(ctx, first)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	if got := digest.NewDigest(f.digest.Algorithm(), f.hash); err == nil && got != f.digest {
		err = fmt.Errorf("%s: got %s: %w", f.digest, got, ErrDigestMismatch)
	}
	if replicas, _ := f.req.replicas.answered(); errors.Is(err, ErrDigestMismatch) && several && !replicas {
		// The source may only get ranges wrong. The next fill does without
		// them.
		f.table.noRanges.Add(f.req.shared(), struct{}{})
	}
	return err
}

// begin opens the spool for the first body and returns the worker that reads
// it. If no spool can be created, the body goes to the request that started the
// fill.
func (f *fill) begin(ctx context.Context, body *Body) (*worker, error) {
	if f.req.Size >= 0 && body.Size >= 0 && body.Size != f.req.Size {
		_ = body.Close()
		return nil, fmt.Errorf("%s: the source announced %d bytes, want %d: %w", f.digest, body.Size, f.req.Size, ErrDigestMismatch)
	}
	again, file, err := f.file != nil, f.file, error(nil)
	if !again {
		file, err = f.openSpool(ctx, body.Size)
	}
	if err != nil {
		f.mu.Lock()
		f.handOver = body
		f.mu.Unlock()
		return nil, fmt.Errorf("%w: %w", errSpool, err)
	}
	w := newWorker(f, body)
	f.etag = body.ETag
	if f.connections < 2 || body.Offset > 0 || body.End == 0 || body.End >= body.Size {
		f.single = w
	}
	f.claims.add(f.req)
	if again {
		f.resize(body)
	} else {
		f.start(file, body.Size, body.Plain)
	}
	return w, nil
}

// restart empties the spool for another attempt. It returns false, and leaves the spool as
// it is, if readers have had bytes of it. No worker may be running.
func (f *fill) restart() bool {
	f.mu.Lock()
	if f.file == nil || f.given || f.file.Truncate(0) != nil {
		f.mu.Unlock()
		return false
	}
	f.segments, f.written, f.limit, f.plain, f.chunks.next = nil, 0, f.size, false, 0
	f.single, f.etag, f.best = nil, "", 0
	f.mu.Unlock()
	f.hash.Reset()
	f.settle(0)
	f.reserved, f.room, f.received = f.table.config.Room.Open(f.req.Group), nil, 0
	f.onDisk.Store(0)
	return true
}
