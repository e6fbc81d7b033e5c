package blobcache

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// copyBuffer is the memory that a fill, and each of its readers, takes.
	copyBuffer = 128 << 10

	// fillIdle is how long a source may send nothing before the transfer
	// counts as dropped.
	fillIdle = time.Minute

	// fillTries is how often in a row a transfer is resumed without having
	// got further by fillProgress bytes.
	fillTries    = 5
	fillProgress = 1 << 20

	// The pause before a resume doubles from the first to the last.
	fillPause    = 200 * time.Millisecond
	fillMaxPause = 5 * time.Second
)

// fill is one transfer of one digest into a spool that many readers follow.
type fill struct {
	spool // what the readers see

	cache  *Cache
	digest digest.Digest
	scope  string
	etag   string // of the source, for a resume
	hash   hash.Hash
	left   chan struct{} // closed when the cache has forgotten the fill
}

// newFill returns a fill that is held by its own run and by one reader to come.
func newFill(c *Cache, req Request) *fill {
	f := &fill{cache: c, digest: req.Digest, scope: req.Scope, hash: req.Digest.Algorithm().Hash(), left: make(chan struct{})}
	f.spool.init(2)
	return f
}

// run is the whole life of a fill. Readers get their last byte as soon as the
// digest matches; that the disk has it durably is only the cache's concern.
func (f *fill) run(ctx context.Context, req Request) {
	begin := time.Now()
	err := f.transfer(ctx, req)
	f.end(err)
	switch {
	case err == nil:
		err = f.cache.store.Commit(ctx, f.digest, f.file)
		if err != nil {
			f.cache.trouble("store "+f.digest.String(), err)
			discard(f.file)
		}
	case errors.Is(err, errSpool):
		f.cache.trouble("spool "+f.digest.String(), err)
		fallthrough
	default:
		discard(f.file)
	}
	f.cache.leave(f)
	if done := f.cache.hooks.FillDone; done != nil {
		done(f.digest, f.written, time.Since(begin), err)
	}
	f.release()
}

// transfer brings the whole content into the spool and verifies it. A source
// that breaks off is resumed, unless it never answered at all.
func (f *fill) transfer(ctx context.Context, req Request) error {
	tries, mark, pause := 0, int64(0), fillPause
	for {
		err := f.attempt(ctx, req)
		if err == nil {
			break
		}
		if f.written-mark >= fillProgress {
			tries, mark, pause = 0, f.written, fillPause
		}
		tries++
		if f.file == nil || errors.Is(err, errSpool) || tries > fillTries {
			return err
		}
		time.Sleep(pause)
		pause = min(2*pause, fillMaxPause)
	}
	if got := digest.NewDigest(f.digest.Algorithm(), f.hash); got != f.digest {
		return fmt.Errorf("%s: got %s: %w", f.digest, got, ErrDigestMismatch)
	}
	return nil
}

// attempt is one transfer from where the spool ends to the end of the content.
func (f *fill) attempt(ctx context.Context, req Request) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	idle := time.AfterFunc(fillIdle, func() {
		cancel(fmt.Errorf("the source sent nothing for %v: %w", fillIdle, context.DeadlineExceeded))
	})
	defer idle.Stop()

	body, err := req.Fetch(ctx, f.written, f.etag)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := f.begin(ctx, req, body); err != nil {
		return err
	}
	err = f.copy(&watched{body, idle})
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	return err
}

// begin opens the spool at the first body and skips what it already has at a
// later one that starts too early.
func (f *fill) begin(ctx context.Context, req Request, body *Body) error {
	if f.file == nil {
		file, err := f.cache.store.Spool(ctx)
		if err != nil {
			return fmt.Errorf("%w: %w", errSpool, err)
		}
		if req.Confirmed != nil {
			req.Confirmed(body.Size)
		}
		f.etag = body.ETag
		f.start(file, body.Size)
	}
	if body.Size != f.size || body.Offset > f.written {
		return fmt.Errorf("the source resumed %d of %d bytes at %d of %d", f.written, f.size, body.Offset, body.Size)
	}
	if _, err := io.CopyN(io.Discard, body, f.written-body.Offset); err != nil {
		return fmt.Errorf("skip to byte %d: %w", f.written, err)
	}
	return nil
}

// copy moves bytes from the source to the spool until the content is whole.
func (f *fill) copy(src io.Reader) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for {
		n, err := src.Read(*buf)
		if n > 0 {
			if f.size >= 0 && f.written+int64(n) > f.size {
				return fmt.Errorf("the source sent more than its %d bytes", f.size)
			}
			f.hash.Write((*buf)[:n])
			if werr := f.append((*buf)[:n]); werr != nil {
				return fmt.Errorf("%w: %w", errSpool, werr)
			}
		}
		switch {
		case err == io.EOF && (f.size < 0 || f.written == f.size):
			return nil
		case err == io.EOF:
			return fmt.Errorf("after %d of %d bytes: %w", f.written, f.size, io.ErrUnexpectedEOF)
		case err != nil:
			return err
		}
	}
}

// buffers are shared by fills and readers, since both come in bursts.
var buffers = sync.Pool{New: func() any {
	buf := make([]byte, copyBuffer)
	return &buf
}}

// watched puts the idle timer off with each read.
type watched struct {
	io.Reader
	idle *time.Timer
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Reader.Read(p)
	w.idle.Reset(fillIdle)
	return n, err
}
