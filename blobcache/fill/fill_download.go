package fill

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/internal/buffer"
)

// A source is fast if it sends speedBytes per speedInterval, some 160 MB/s.
const (
	speedInterval = 100 * time.Millisecond
	speedBytes    = 16 << 20
)

// download fetches the content and hashes it at the same time. It returns when
// the whole content is in the spool and hashed, or with the first error that
// ends the fill.
func (f *fill) download(ctx context.Context, first *worker) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(ctx, f.wake)()
	defer f.dropChunks()
	attach(ctx, first.body, f.meter)
	hashed := make(chan error, 1)
	go func() {
		err := f.hashAll(ctx)
		cancelIf(cancel, err)
		hashed <- err
	}()
	var err error
	if f.single == first {
		err = first.run(ctx)
	} else {
		err = f.share(ctx, cancel, first)
	}
	cancelIf(cancel, err)
	if herr := <-hashed; err == nil {
		err = herr
	}
	return err
}

// share fetches the content with the worker that has the first body and with
// further ones.
func (f *fill) share(ctx context.Context, cancel context.CancelCauseFunc, first *worker) error {
	// The first body is being received already.
	first.next = f.hold(0, first.body.End)
	setIdleTimeout(first.body, sourceStall)
	more := (f.size - first.body.End + f.table.config.Spans.Least - 1) / f.table.config.Spans.Least
	errs := make([]error, min(int64(f.connections), 1+more))
	var all sync.WaitGroup
	alone := make(chan struct{})
	for i := range errs {
		all.Go(func() {
			if i == 0 {
				errs[i] = first.run(ctx)
				close(alone)
			} else if f.needsWorkers(alone) {
				errs[i] = newWorker(f, nil).run(ctx)
			}
			if final(errs[i]) {
				cancel(errs[i])
			}
		})
	}
	all.Wait()
	err := context.Cause(ctx)
	if err == nil && f.incomplete() {
		err = f.rest(ctx, errs)
	}
	return err
}

// needsWorkers waits until the first worker has ended, or until its source is not
// fast, and reports whether there is something left to fetch. Several ranges at
// once do not speed up a source that is fast, or that waits for the hasher; their
// bytes only arrive out of order.
func (f *fill) needsWorkers(ended <-chan struct{}) bool {
	ticker := time.NewTicker(speedInterval)
	defer ticker.Stop()
	for before, over := int64(0), false; ; {
		select {
		case <-ticker.C:
		case <-ended:
			over = true
		}
		f.mu.Lock()
		written, left := f.written, f.segments.left(f.limit)
		held := len(f.chunks.list) == maxChunks || time.Since(f.chunks.waited) < speedInterval
		f.mu.Unlock()
		if left == 0 || over || written-before < speedBytes && !held {
			return left > 0
		}
		before = written
	}
}

// rest fetches what one worker has left behind when the others had nothing left
// to do. If all workers failed, so does the fill.
func (f *fill) rest(ctx context.Context, errs []error) error {
	if !slices.Contains(errs, nil) {
		return errs[0]
	}
	last := newWorker(f, nil)
	f.mu.Lock()
	f.single = last
	f.mu.Unlock()
	return last.run(ctx)
}

func cancelIf(cancel context.CancelCauseFunc, err error) {
	if err != nil {
		cancel(err)
	}
}

// keepBytes writes the first n bytes of a buffer to the spool, where the
// segment continues, and returns the buffer for the next ones.
func (f *fill) keepBytes(ctx context.Context, seg *segment, buf *buffer.Buffer, n int) (*buffer.Buffer, error) {
	bare, err := f.makeRoom(ctx, seg, int64(n))
	if err != nil {
		return buf, err
	}
	next, err := f.put(ctx, seg, buf, n)
	if err == nil {
		f.wrote(bare)
	}
	return next, err
}

// claim returns the next segment for a worker, or nil if there is none for it.
func (f *fill) claim(w *worker) *segment {
	f.mu.Lock()
	defer f.mu.Unlock()
	if next := w.next; next != nil {
		w.next = nil
		return next
	}
	if f.single != nil && f.single != w {
		return nil
	}
	for from, to := range f.segments.gaps(f.limit) {
		if f.single == nil {
			from, to = f.choose(from, to)
		}
		return f.segments.hold(from, to)
	}
	return nil
}

// choose returns a part of a gap: where the first reader waits for bytes that
// no worker fetches, or else at the beginning of the lowest gap, which is
// passed in.
func (f *fill) choose(from, to int64) (int64, int64) {
	sizes := f.table.config.Spans
	step := f.segments.left(f.limit) / int64(2*f.connections)
	step = min(max(step, sizes.Least), sizes.Most)
	wanted := f.limit
	for low, high := range f.segments.gaps(f.limit) {
		for off := range f.waiting {
			if low <= off && off < high && off < wanted {
				wanted = off
				// Readers of ranges usually wait close to each other.
				from, to = max(low, min(off-off%(sizes.Least/8), high-sizes.Least)), high
			}
		}
	}
	if to-from > step+sizes.Least/2 {
		to = from + step
	}
	return from, to
}

func (f *fill) incomplete() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.segments.left(f.limit) > 0
}

// asking returns the validator for a worker's request, and whether the worker
// is the only one, so that it may ask for the rest of the content.
func (f *fill) asking(w *worker) (etag string, alone bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.etag, f.single == w
}

// notePlain records whether a body is plain. It must be called before the
// body's bytes are in the spool.
func (f *fill) notePlain(body *Body) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.plain = f.plain || body.Plain
}

// answeredBy keeps the latest validator.
func (f *fill) answeredBy(body *Body) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if body.ETag != "" {
		f.etag = body.ETag
	}
}

// withoutRanges makes the fill go on as a single stream, and reports whether w
// is the worker that reads it. The other workers finish what they have begun.
func (f *fill) withoutRanges(w *worker) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.single == nil {
		f.single = w
	}
	return f.single == w
}
