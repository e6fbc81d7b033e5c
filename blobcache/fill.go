package blobcache

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// copyBuffer is the memory that a fill, and each of its readers, takes.
	copyBuffer = 128 << 10

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
	key    fillKey
	digest digest.Digest
	scope  string
	etag   string // of the source, for a resume
	hash   hash.Hash
	// reserved is how many bytes the keeper holds free for the fill.
	reserved int64
	left     chan struct{} // closed when the cache has forgotten the fill
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
	if err == nil {
		f.end(nil)
		f.commit(ctx)
		f.cache.leave(f)
	} else {
		f.settle(0)
		// Whoever learns of the failure and asks again must not find it here.
		f.cache.leave(f)
		f.end(err)
		discard(f.file)
		if errors.Is(err, errSpool) && !errors.Is(err, errTooLarge) {
			f.cache.trouble("spool "+f.digest.String(), err)
		}
	}
	if done := f.cache.hooks.FillDone; done != nil {
		done(f.digest, f.written, time.Since(begin), err)
	}
	f.release()
}

func (f *fill) commit(ctx context.Context) {
	if err := f.cache.store.Commit(ctx, f.digest, f.file); err != nil {
		f.settle(0)
		f.cache.trouble("store "+f.digest.String(), err)
		discard(f.file)
		return
	}
	f.settle(f.written)
}

// settle gives back the room that was reserved, but for what was stored.
func (f *fill) settle(stored int64) { f.cache.keeper.settle(f.reserved, f.digest, stored) }

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
		final := errors.Is(err, errSpool) || errors.Is(err, ErrDigestMismatch)
		if f.file == nil || final || tries > fillTries {
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
	body, err := fetch(ctx, req, f.written, f.etag)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := f.begin(ctx, req, body); err != nil {
		return err
	}
	return f.copy(body)
}

// begin opens the spool at the first body and skips what it already has at a
// later one that starts too early.
func (f *fill) begin(ctx context.Context, req Request, body *Body) error {
	if f.file == nil {
		file, err := f.openSpool(ctx, body.Size)
		if err != nil {
			return fmt.Errorf("%w: %w", errSpool, err)
		}
		if req.Confirmed != nil {
			req.Confirmed(body.Size)
		}
		f.start(file, body.Size)
	}
	if body.ETag != "" {
		f.etag = body.ETag
	}
	if body.Size != f.size && body.Size >= 0 && f.size >= 0 || body.Offset > f.written {
		return fmt.Errorf("the source resumed %d of %d bytes at %d of %d", f.written, f.size, body.Offset, body.Size)
	}
	if _, err := io.CopyN(io.Discard, body, f.written-body.Offset); err != nil {
		return fmt.Errorf("skip to byte %d: %w", f.written, err)
	}
	return nil
}

func (f *fill) openSpool(ctx context.Context, size int64) (*os.File, error) {
	if err := f.cache.keeper.reserve(ctx, size); err != nil {
		return nil, err
	}
	f.reserved = size
	return f.cache.store.Spool(ctx)
}

// copy moves bytes from the source to the spool until the content is whole.
func (f *fill) copy(src io.Reader) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for {
		n, err := src.Read(*buf)
		if n > 0 {
			if f.size >= 0 && f.written+int64(n) > f.size {
				return fmt.Errorf("the source sent more than its %d bytes: %w", f.size, ErrDigestMismatch)
			}
			f.hash.Write((*buf)[:n])
			if werr := f.append((*buf)[:n]); werr != nil {
				return fmt.Errorf("%w: %w", errSpool, werr)
			}
		}
		switch {
		case err == io.EOF && f.size < 0:
			return nil
		case err != nil && f.written == f.size:
			return nil // whole, however the source ends; the digest decides
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
