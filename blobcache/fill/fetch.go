package fill

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

const (
	// sourceStall is how long one of several connections may send nothing, at
	// first. The others go on, but readers in order wait for this one.
	sourceStall = 5 * time.Second

	// sourceTries is how often in a row a transfer is resumed without getting
	// sourceProgress bytes further.
	sourceTries    = 5
	sourceProgress = 1 << 20

	// The pause before a resume starts at sourcePause and doubles up to
	// sourceMaxPause.
	sourcePause    = 200 * time.Millisecond
	sourceMaxPause = 5 * time.Second
)

// fetch asks the peers and replicas of a request, and calls the request's Fetch if none of
// them answers. The call, and each read of the body, fails if the source sends nothing for
// too long; for the body the limit is shorter, so that there is time to ask again.
func fetch(ctx context.Context, req Request, m *meter, offset, length int64, etag string) (*Body, error) {
	if body, err := req.replicas.fetch(ctx, m, offset, length); body != nil || err != nil {
		return body, err
	}
	body, w, err := watch(ctx, m, m.limits.Stall, func(ctx context.Context) (*Body, error) {
		return req.Fetch(ctx, offset, length, etag)
	})
	if err != nil {
		return nil, err
	}
	w.limit = m.limits.Stall / 2
	return &Body{ReadCloser: w, Size: body.Size, Offset: body.Offset, End: body.End, ETag: body.ETag, Plain: body.Plain}, nil
}

// watch calls ask, which fails if it takes longer than limit, and returns its result and
// the reader for its body, whose reads are limited in the same way.
func watch(ctx context.Context, m *meter, limit time.Duration, ask func(context.Context) (*Body, error)) (*Body, *watchedBody, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watchedBody{ctx: ctx, cancel: cancel, meter: m, limit: limit}
	w.idle = time.AfterFunc(w.limit, w.giveUp)
	m.begin()
	body, err := ask(ctx)
	m.end(0, 0)
	w.idle.Stop()
	if err == nil && ctx.Err() != nil {
		_ = body.Close() // it has come too late
		err = ctx.Err()
	}
	if err != nil {
		err = w.explain(err)
		cancel(nil)
		return nil, nil, err
	}
	w.body = body.ReadCloser
	return body, w, nil
}

// watchedBody is a body with an idle timer that runs during reads only, since a
// disk or a client may take its time.
type watchedBody struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	meter  *meter
	idle   *time.Timer
	limit  time.Duration
	body   io.ReadCloser
	silent atomic.Bool // the timer has expired

	// The replica that sends the body and those that it belongs to, or nil.
	replica  Replica
	replicas *replicas

	// The next bytes repeat what has come before, and the first of them do so not for
	// the first time.
	repeats, again int64
}

func (w *watchedBody) giveUp() {
	w.silent.Store(true)
	w.cancel(fmt.Errorf("the source sent nothing for %v: %w", w.limit, context.DeadlineExceeded))
}

func (w *watchedBody) Read(p []byte) (int, error) {
	w.idle.Reset(w.limit)
	quiet := w.meter.begin()
	n, err := w.body.Read(p)
	w.repeats, w.again = w.repeats-int64(n), w.again-int64(n)
	switch {
	case w.repeats < 0:
		quiet = 0
	case w.again >= 0:
		quiet = w.meter.limits.Stall
	}
	if fetched := w.meter.fetched; n > 0 && fetched != nil && w.replica == nil {
		fetched(n)
	}
	w.meter.end(n, quiet)
	w.idle.Stop()
	if err != nil && err != io.EOF {
		err = w.explain(err)
		if w.replica != nil && (w.ctx.Err() == nil || w.silent.Load()) {
			w.replicas.giveUp(w.replica, err)
			err = fmt.Errorf("%w: %v", errReplica, err) // it says nothing about the source
		}
	}
	return n, err
}

func (w *watchedBody) Close() error {
	err := w.body.Close()
	w.cancel(nil)
	return err
}

// explain returns the reason for which the timer or the fill ended the
// transfer, if it did, instead of err.
func (w *watchedBody) explain(err error) error {
	if cause := context.Cause(w.ctx); cause != nil {
		return cause
	}
	return err
}

// attach makes the end of ctx end a body that was fetched under another
// context, and has m measure it. It must be called before the first Read.
func attach(ctx context.Context, body *Body, m *meter) {
	if w, ok := body.ReadCloser.(*watchedBody); ok {
		w.meter = m
		context.AfterFunc(ctx, func() { w.cancel(context.Cause(ctx)) })
	}
}

// setIdleTimeout shortens the body's idle timeout. It must be called before the
// first Read.
func setIdleTimeout(body *Body, limit time.Duration) {
	if w, ok := body.ReadCloser.(*watchedBody); ok {
		w.limit = min(w.limit, limit)
	}
}

// continues returns an error unless the body continues content of this size, -1
// if it is not known, at or before offset off.
func (b *Body) continues(off, size int64) error {
	if b.Size != size && b.Size >= 0 && size >= 0 || b.Offset > off || b.End > 0 && b.End <= off {
		return fmt.Errorf("the source resumed byte %d of %d at %d of %d", off, size, b.Offset, b.Size)
	}
	return nil
}

// retries decides how long and how often a source that breaks off is asked
// again.
type retries struct {
	meter    *meter
	tries    int
	mark     int64
	pause    time.Duration
	repeated int64 // up to where the source has repeated the content since it sent a new byte
}

// skip reads the bytes of a body from one offset to another, which have come before,
// and returns their number. They are no progress. The wait for bytes that are repeated
// for the first time does not count either, so that a slow source without ranges gets
// to the new ones; but a source that repeats the same bytes again and again is stuck.
func (p *retries) skip(body *Body, from, to int64) (int64, error) {
	if from >= to {
		return 0, nil
	}
	if w, ok := body.ReadCloser.(*watchedBody); ok {
		w.repeats, w.again = to-from, p.repeated-from
	}
	n, err := io.CopyN(io.Discard, body, to-from)
	p.repeated = max(p.repeated, from+n)
	if err != nil {
		err = fmt.Errorf("skip to byte %d: %w", to, err)
	}
	return n, err
}

// stall returns how long one of several connections may send nothing. It
// doubles with each failure, for sources that are slow to answer.
func (p *retries) stall(got int64) time.Duration {
	if got-p.mark >= sourceProgress {
		return sourceStall
	}
	return sourceStall << p.tries
}

// again waits and reports whether a source that has sent `got` bytes so far
// should be asked once more.
func (p *retries) again(ctx context.Context, got int64) bool {
	if got-p.mark >= sourceProgress || p.tries == 0 {
		p.tries, p.mark, p.pause = 0, got, sourcePause
	}
	if p.tries++; p.tries > sourceTries {
		return false
	}
	p.meter.begin()
	defer p.meter.end(0, 0)
	timer := time.NewTimer(p.pause)
	defer timer.Stop()
	p.pause = min(2*p.pause, sourceMaxPause)
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
