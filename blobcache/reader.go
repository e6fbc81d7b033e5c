package blobcache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net/http"
	"os"
	"sync"
	"sync/atomic"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/internal/buffer"
)

// Reader reads content from any offset and waits for bytes that are still being
// downloaded. A read that reaches the end of the content has delivered bytes of
// the right digest. A Reader is for one goroutine, except that Close and Err
// may be called during a Read: [http.ServeContent] leaves a goroutine behind if
// a client leaves in the middle of several ranges.
type Reader struct {
	source io.ReadSeekCloser  // an absolute Seek is enough
	cancel context.CancelFunc // called when the reader is closed; ends a read that waits
	failed func(error)        // told of what the disk cannot read; nil if it is not read from the store
	size   int64
	err    atomic.Pointer[error]

	using  sync.Mutex // held while source is in use
	off    int64
	closed bool
}

// Size returns the size of the content in bytes, or -1 if nothing tells it. See
// [fill.Follower.Size] for content that is still being downloaded.
func (r *Reader) Size() int64 { return r.size }

// Stored reports whether the content is read from the store, and not while it is being
// downloaded.
func (r *Reader) Stored() bool {
	_, following := r.source.(*fill.Follower)
	return !following
}

// FromReplica reports whether all bytes that have come so far are from peers or replicas,
// see [fill.Replica]. It is false for content that is read from the store.
func (r *Reader) FromReplica() bool {
	follower, ok := r.source.(*fill.Follower)
	return ok && follower.FromReplica()
}

// FromPeer reports whether a peer has sent some of the bytes that have come so far. It is
// false for content that is read from the store.
func (r *Reader) FromPeer() bool {
	follower, ok := r.source.(*fill.Follower)
	return ok && follower.FromPeer()
}

// Parts announces that ranges of the content will be read, and reports whether
// they may be. They may not while some of the content is [fill.Body.Plain], or comes
// from a [fill.Replica], and the whole is not verified: then the caller must read all of
// it, from the first byte. A caller that [fill.Request.Verifies] may read ranges.
func (r *Reader) Parts() bool {
	r.using.Lock()
	defer r.using.Unlock()
	if f, ok := r.source.(*fill.Follower); ok {
		return f.Parts()
	}
	return true
}

// AwaitWhole waits until the whole content has come and is verified, so that
// its size is known. It does not wait for content that cannot be stored: the
// size is then the one that the source announced, or the error is
// [fill.ErrUnconfirmed] if that came by a [fill.Body.Plain].
func (r *Reader) AwaitWhole(ctx context.Context) error {
	r.using.Lock()
	defer r.using.Unlock()
	f, ok := r.source.(*fill.Follower)
	if !ok {
		return nil
	}
	size, err := f.AwaitWhole(ctx)
	if err == nil {
		r.size = size
	}
	return err
}

// Err returns the first error other than io.EOF that a read has met. It tells a
// caller that handed the reader on whether the body was whole.
func (r *Reader) Err() error {
	if err := r.err.Load(); err != nil {
		return *err
	}
	return nil
}

// Read implements io.Reader.
func (r *Reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	r.using.Lock()
	defer r.using.Unlock()
	if r.closed {
		return 0, fs.ErrClosed
	}
	n, err := r.source.Read(p)
	return n, r.took(n, err)
}

// took counts the bytes of a read and handles its error.
func (r *Reader) took(n int, err error) error {
	r.off += int64(n)
	if err == io.EOF {
		err = r.short()
	}
	if err != nil && err != io.EOF && r.failed != nil {
		r.failed(err)
	}
	return r.note(err)
}

// Seek implements io.Seeker.
func (r *Reader) Seek(offset int64, whence int) (int64, error) {
	r.using.Lock()
	defer r.using.Unlock()
	switch whence {
	case io.SeekCurrent:
		offset += r.off
	case io.SeekEnd:
		if r.size < 0 {
			return 0, errors.New("seek from the end of content of unknown size")
		}
		offset += r.size
	}
	if offset < 0 {
		return 0, fmt.Errorf("seek to byte %d: %w", offset, fs.ErrInvalid)
	}
	off, err := r.source.Seek(offset, io.SeekStart)
	if err == nil {
		r.off = off
	}
	return r.off, r.note(err)
}

// WriteTo implements io.WriterTo. It hands a stored file to w itself, so that
// an HTTP server can use sendfile(2), and flushes bytes that are still being
// downloaded as they come.
func (r *Reader) WriteTo(w io.Writer) (int64, error) {
	if file, ok := r.source.(*os.File); ok {
		return r.send(w, file)
	}
	n, err := r.pass(w, math.MaxInt64)
	if err == io.EOF {
		err = nil
	}
	return n, err
}

// WriteNext writes the next n bytes to w in the same way as [Reader.WriteTo].
// It returns io.EOF if there are fewer.
func (r *Reader) WriteNext(w io.Writer, n int64) (int64, error) {
	if file, ok := r.source.(*os.File); ok && r.off+n == r.size {
		return r.send(w, file)
	}
	return r.pass(w, n)
}

// pass copies at most `most` bytes to w. It returns io.EOF only at the end of
// the content.
func (r *Reader) pass(w io.Writer, most int64) (written int64, err error) {
	buf := buffer.Take(false)
	defer buf.Release()
	for written < most && err == nil {
		var n int
		n, err = r.passPiece(w, buf.B, most-written)
		written += int64(n)
	}
	return written, err
}

func (r *Reader) passPiece(w io.Writer, buf []byte, most int64) (n int, err error) {
	p, back, err := r.next(buf, most)
	defer back()
	if len(p) == 0 {
		return 0, err
	}
	n, werr := w.Write(p)
	switch {
	case werr == io.EOF:
		return n, io.ErrClosedPipe // it is not the content's end
	case werr == nil && n < len(p):
		return n, io.ErrShortWrite
	case werr != nil:
		return n, werr
	}
	if rw, ok := w.(http.ResponseWriter); ok && len(p) != len(buf) {
		// The client may wait for each byte. The next write reports a failure.
		_ = http.NewResponseController(rw).Flush()
	}
	return n, err
}

// next returns the next bytes, at most `most`, in memory of their own or in
// buf. The caller must call back when it has used them.
func (r *Reader) next(buf []byte, most int64) (p []byte, back func(), err error) {
	r.using.Lock()
	defer r.using.Unlock()
	if r.closed {
		return nil, func() {}, fs.ErrClosed
	}
	if f, ok := r.source.(*fill.Follower); ok {
		p, back, err = f.Next(buf, most)
	} else {
		var n int
		n, err = r.source.Read(buf[:min(int64(len(buf)), most)])
		p, back = buf[:n], func() {}
	}
	return p, back, r.took(len(p), err)
}

func (r *Reader) send(w io.Writer, file *os.File) (n int64, err error) {
	n, err = io.Copy(w, file)
	r.off += n
	switch {
	case err == nil && r.short() == io.EOF:
		return n, nil
	case err == nil:
		err = r.short()
		r.failed(err)
	default:
		// The client has left, or the disk cannot be read from here on.
		if at, serr := file.Seek(0, io.SeekCurrent); serr == nil {
			if rerr := readable(file, at); rerr != nil {
				r.failed(rerr)
			}
		}
	}
	return n, r.note(err)
}

// Close releases the content. A fill that the reader followed goes on.
func (r *Reader) Close() error {
	if r.cancel != nil {
		r.cancel()
	}
	r.using.Lock()
	defer r.using.Unlock()
	if r.closed {
		return nil
	}
	r.closed = true
	return r.source.Close()
}

// short returns io.EOF if the content ends here, or an error if it was cut
// since it was opened.
func (r *Reader) short() error {
	if r.off < r.size {
		return fmt.Errorf("after %d of %d bytes: %w", r.off, r.size, io.ErrUnexpectedEOF)
	}
	return io.EOF
}

func (r *Reader) note(err error) error {
	if err != nil && err != io.EOF {
		r.err.CompareAndSwap(nil, &err)
	}
	return err
}
