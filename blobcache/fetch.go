package blobcache

import (
	"context"
	"fmt"
	"io"
	"time"
)

const (
	// sourceStall is how long one of several connections may send nothing, at
	// first: the others go on, but readers from the beginning wait for this one.
	sourceStall = 5 * time.Second

	// A transfer is resumed so often in a row without having got further by
	// sourceProgress bytes.
	sourceTries    = 5
	sourceProgress = 1 << 20

	// The pause before a resume doubles from the first to the last.
	sourcePause    = 200 * time.Millisecond
	sourceMaxPause = 5 * time.Second
)

// fetch asks a request's source. The call, and each read of the body, fails when
// the source has sent nothing for too long: a body sooner, so that there is time
// to ask again.
func fetch(ctx context.Context, req Request, m *meter, offset, length int64, etag string) (*Body, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watchedBody{ctx: ctx, cancel: cancel, meter: m, limit: m.limits.Stall}
	w.idle = time.AfterFunc(w.limit, w.giveUp)
	m.begin()
	body, err := req.Fetch(ctx, offset, length, etag)
	m.end(0)
	w.idle.Stop()
	if err != nil {
		err = w.explain(err)
		cancel(nil)
		return nil, err
	}
	m.answered()
	w.body, w.limit = body.ReadCloser, m.limits.Stall/2
	return &Body{ReadCloser: w, Size: body.Size, Offset: body.Offset, End: body.End, ETag: body.ETag, Plain: body.Plain}, nil
}

// watchedBody is a body whose idle timer runs during reads only: a disk, or a
// client, may take its time.
type watchedBody struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	meter  *meter
	idle   *time.Timer
	limit  time.Duration
	body   io.ReadCloser
}

func (w *watchedBody) giveUp() {
	w.cancel(fmt.Errorf("the source sent nothing for %v: %w", w.limit, context.DeadlineExceeded))
}

func (w *watchedBody) Read(p []byte) (int, error) {
	w.idle.Reset(w.limit)
	w.meter.begin()
	n, err := w.body.Read(p)
	w.meter.end(n)
	w.idle.Stop()
	if err != nil && err != io.EOF {
		err = w.explain(err)
	}
	return n, err
}

func (w *watchedBody) Close() error {
	err := w.body.Close()
	w.cancel(nil)
	return err
}

// explain puts the reason for giving up in place of what the source made of it.
func (w *watchedBody) explain(err error) error {
	if cause := context.Cause(w.ctx); cause != nil {
		return cause
	}
	return err
}

// attach makes the end of ctx the end of a body that was fetched under another, and
// has it measured by m, before anybody reads it.
func attach(ctx context.Context, body *Body, m *meter) {
	if w, ok := body.ReadCloser.(*watchedBody); ok {
		w.meter = m
		m.answered()
		context.AfterFunc(ctx, func() { w.cancel(context.Cause(ctx)) })
	}
}

// setIdleTimeout makes a body that a fetch has returned fail after so long without a
// byte. Nobody reads it yet.
func setIdleTimeout(body *Body, limit time.Duration) {
	if w, ok := body.ReadCloser.(*watchedBody); ok {
		w.limit = min(w.limit, limit)
	}
}

// continues checks that an answer goes on with content of a size, -1 if that is
// not known, from off on or from before.
func (b *Body) continues(off, size int64) error {
	if b.Size != size && b.Size >= 0 && size >= 0 || b.Offset > off || b.End > 0 && b.End <= off {
		return fmt.Errorf("the source resumed byte %d of %d at %d of %d", off, size, b.Offset, b.Size)
	}
	return nil
}

// retries is what is left of it with a source that breaks off.
type retries struct {
	meter *meter
	tries int
	mark  int64
	pause time.Duration
}

// stall is how long one of several connections may send nothing: longer after
// each failure, in case it is the source's way.
func (p *retries) stall(got int64) time.Duration {
	if got-p.mark >= sourceProgress {
		return sourceStall
	}
	return sourceStall << p.tries
}

// again reports, after a pause, whether a source that has sent so many bytes by
// now is to be asked once more.
func (p *retries) again(ctx context.Context, got int64) bool {
	if got-p.mark >= sourceProgress || p.tries == 0 {
		p.tries, p.mark, p.pause = 0, got, sourcePause
	}
	if p.tries++; p.tries > sourceTries {
		return false
	}
	p.meter.begin()
	defer p.meter.end(0)
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
