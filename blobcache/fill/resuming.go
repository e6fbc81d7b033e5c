package fill

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	err     error // the end: io.EOF, or why it came to no good end
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
		return n, nil // an error can wait
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
