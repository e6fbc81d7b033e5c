package blobcache

import (
	"context"
	"fmt"
	"io"
	"time"
)

// sourceIdle is how long a source may send nothing before the transfer counts
// as dropped.
const sourceIdle = time.Minute

// fetch asks a request's source. The call, and each read of the body, fails
// when the source has sent nothing for too long.
func fetch(ctx context.Context, req Request, offset int64, etag string) (*Body, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watched{ctx: ctx, cancel: cancel}
	w.idle = time.AfterFunc(sourceIdle, func() {
		cancel(fmt.Errorf("the source sent nothing for %v: %w", sourceIdle, context.DeadlineExceeded))
	})
	body, err := req.Fetch(ctx, offset, etag)
	w.idle.Stop()
	if err != nil {
		err = w.explain(err)
		cancel(nil)
		return nil, err
	}
	w.body = body.ReadCloser
	return &Body{ReadCloser: w, Size: body.Size, Offset: body.Offset, ETag: body.ETag}, nil
}

// watched is a body whose idle timer runs during reads only: a disk, or a
// client, may take its time.
type watched struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	idle   *time.Timer
	body   io.ReadCloser
}

func (w *watched) Read(p []byte) (int, error) {
	w.idle.Reset(sourceIdle)
	n, err := w.body.Read(p)
	w.idle.Stop()
	if err != nil && err != io.EOF {
		err = w.explain(err)
	}
	return n, err
}

func (w *watched) Close() error {
	err := w.body.Close()
	w.cancel(nil)
	return err
}

// explain puts the reason for giving up in place of what the source made of it.
func (w *watched) explain(err error) error {
	if cause := context.Cause(w.ctx); cause != nil {
		return cause
	}
	return err
}
