package fill

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

// sourceStall is how long one of several connections may send nothing at first. The
// others go on, but readers that read in order wait for this one.
const sourceStall = 5 * time.Second

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

	// The next `repeats` bytes have been received before, and the first `again` of them
	// more than once.
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
		return fmt.Errorf("the source answered the request for byte %d of %d with byte %d of %d", off, size, b.Offset, b.Size)
	}
	return nil
}
