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
)

// Reader reads content from its first byte or any other, waiting for bytes
// that are still on their way. A read that reaches the end of the content has
// delivered bytes of the right digest. It is for one goroutine, except that
// Close and Err may be called while another one reads: [http.ServeContent]
// leaves such a one behind if a client leaves in the middle of several ranges.
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

// Size is the length of the content in bytes, or -1 in the rare case that
// neither disk nor source can tell.
func (r *Reader) Size() int64 { return r.size }

// Children announces that parts of the content will be read, and reports whether
// they may be. They may not while any of it is [Body.Plain] and the whole is not
// verified: then the whole is to be read, from its first byte.
func (r *Reader) Parts() bool {
	r.using.Lock()
	defer r.using.Unlock()
	switch source := r.source.(type) {
	case *follower:
		return source.parts()
	case *bypass:
		return source.parts()
	}
	return true
}

// AwaitWhole waits until all of the content has come and is verified, and so its
// size is known. Content that cannot be stored is not waited for: its size is the
// one that the source announced, which is an error if that is [Body.Plain].
func (r *Reader) AwaitWhole(ctx context.Context) error {
	r.using.Lock()
	defer r.using.Unlock()
	exposed := false
	switch source := r.source.(type) {
	case *follower:
		size, err := source.fill.awaitEnd(ctx)
		if err == nil {
			r.size = size
			return nil
		}
		if exposed = source.fill.exposed(); !errors.Is(err, errSpool) {
			return err
		}
	case *bypass:
		exposed = source.source.plain
	}
	if exposed {
		return ErrUnconfirmed
	}
	return nil
}

// Err is the first error other than io.EOF that a read met. It lets a caller
// that handed the reader to somebody else tell a whole body from a broken one.
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

// took counts what a read of the source has given.
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

// WriteTo implements io.WriterTo. A stored file is handed to w as it is, so
// that an HTTP server can send it by sendfile(2); bytes that are still coming
// are flushed as they come.
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

// WriteNext writes the next n bytes to w as [Reader.WriteTo] writes all of them.
// If there are fewer it ends with io.EOF.
func (r *Reader) WriteNext(w io.Writer, n int64) (int64, error) {
	if file, ok := r.source.(*os.File); ok && r.off+n == r.size {
		return r.send(w, file)
	}
	return r.pass(w, n)
}

// pass writes the next bytes, at most so many, by way of memory. It ends with
// io.EOF only at the end of the content.
func (r *Reader) pass(w io.Writer, most int64) (written int64, err error) {
	buf := takeBuffer(false)
	defer buf.release()
	for written < most && err == nil {
		var n int
		n, err = r.passPiece(w, buf.b, most-written)
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
		// Somebody waits for each byte; a failure shows at the next write.
		_ = http.NewResponseController(rw).Flush()
	}
	return n, err
}

// next returns what comes next, at most so many bytes, in memory of its own or
// read into buf. It is to be given back.
func (r *Reader) next(buf []byte, most int64) (p []byte, back func(), err error) {
	r.using.Lock()
	defer r.using.Unlock()
	if r.closed {
		return nil, func() {}, fs.ErrClosed
	}
	if t, ok := r.source.(*follower); ok {
		p, back, err = t.next(buf, most)
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
		// The client has left, or the disk cannot read on from here.
		if at, serr := file.Seek(0, io.SeekCurrent); serr == nil {
			if rerr := readable(file, at); rerr != nil {
				r.failed(rerr)
			}
		}
	}
	return n, r.note(err)
}

// Close gives up the content. A fill that it followed goes on.
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

// short is what an end here is: io.EOF, or the failure of content that was cut
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
