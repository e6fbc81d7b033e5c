package fill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

const (
	// sourceTries is how often in a row a transfer is resumed without getting
	// sourceProgress bytes further.
	sourceTries    = 5
	sourceProgress = 1 << 20

	// The pause before a resume starts at sourcePause and doubles up to
	// sourceMaxPause.
	sourcePause    = 200 * time.Millisecond
	sourceMaxPause = 5 * time.Second
)

// resuming reads content from its source as one stream, and asks again where
// the source breaks off. It does not verify the bytes.
type resuming struct {
	ctx     context.Context
	req     Request
	meter   *meter
	size    int64 // of the content, -1 if not known
	etag    string
	body    *Body // open, or nil
	pos     int64 // of the next byte
	retries retries
	plain   bool  // some of it is [Body.Plain]
	err     error // that has ended the stream, or io.EOF
}

// resume returns the stream that begins with a body.
func resume(ctx context.Context, req Request, m *meter, size int64, body *Body) *resuming {
	return &resuming{
		ctx: ctx, req: req, meter: m, size: size, etag: body.ETag, body: body, pos: body.Offset, plain: body.Plain,
		retries: retries{meter: m},
	}
}

func (r *resuming) Read(p []byte) (n int, err error) {
	for n == 0 && r.err == nil {
		if r.body == nil {
			err = r.open()
		}
		if err == nil {
			n, err = r.body.Read(p)
			r.pos += int64(n)
		}
		if err != nil {
			r.err = r.retry(err)
			err = nil
		}
	}
	if n > 0 {
		r.retries.repeated = 0
		return n, nil // the next call returns the error
	}
	return 0, r.err
}

// retry prepares the next read to ask the source again, or returns the error
// that ends the stream.
func (r *resuming) retry(err error) error {
	asked := r.body != nil && r.body.End > 0 && r.pos >= r.body.End
	r.close()
	switch {
	case r.size < 0 && err == io.EOF && !asked, r.size >= 0 && r.pos >= r.size:
		return io.EOF
	case err == io.EOF && asked:
		return nil
	case err == io.EOF:
		err = fmt.Errorf("after %d of %d bytes: %w", r.pos, r.size, io.ErrUnexpectedEOF)
	case errors.Is(err, errReplica):
		return nil
	}
	if final(err) || !r.retries.again(r.ctx, r.pos) {
		return err
	}
	return nil
}

func (r *resuming) open() error {
	body, err := fetch(r.ctx, r.req, r.meter, r.pos, -1, r.etag)
	if err != nil {
		return err
	}
	if err := body.continues(r.pos, r.size); err != nil {
		_ = body.Close()
		return err
	}
	if _, err := r.retries.skip(body, body.Offset, r.pos); err != nil {
		_ = body.Close()
		return err
	}
	r.plain = r.plain || body.Plain
	if r.body = body; body.ETag != "" {
		r.etag = body.ETag
	}
	return nil
}

func (r *resuming) close() {
	if r.body != nil {
		_ = r.body.Close()
		r.body = nil
	}
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
