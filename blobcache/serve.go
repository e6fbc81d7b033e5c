package blobcache

import (
	"io"
	"net/http"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// AwaitByte waits until the next byte can be read, or until the end of the content.
// The error is the one that a Read would return. A server that sends its header
// after AwaitByte can still respond with an error if the source sends nothing.
func (r *Reader) AwaitByte() error {
	r.using.Lock()
	defer r.using.Unlock()
	if f, ok := r.source.(*fill.Follower); ok {
		return r.note(f.AwaitByte())
	}
	return nil
}

// ServeContent answers a request for ranges, or with conditions, by
// [http.ServeContent]. The size of the content must be known. If the error is not
// nil, the response is incomplete, and begun reports whether its header was sent.
func (r *Reader) ServeContent(w http.ResponseWriter, req *http.Request) (begun bool, err error) {
	late := &lateHeader{ResponseWriter: w, of: r}
	http.ServeContent(late, req, "", time.Time{}, r)
	return late.begun, r.Err()
}

// lateHeader is the response writer for [http.ServeContent]. It sends the header of
// a response with content when the first byte can be read, or never. It lets the
// reader write the ranges, because io.Copy would allocate a buffer for each piece.
type lateHeader struct {
	http.ResponseWriter
	of    *Reader
	begun bool
	err   error // from waiting for the first byte
}

// WriteHeader implements [http.ResponseWriter].
func (w *lateHeader) WriteHeader(status int) {
	if status == http.StatusOK || status == http.StatusPartialContent {
		if w.err = w.of.AwaitByte(); w.err != nil {
			return
		}
	}
	w.begun = true
	w.ResponseWriter.WriteHeader(status)
}

// Write implements [io.Writer].
func (w *lateHeader) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	return w.ResponseWriter.Write(p)
}

// ReadFrom implements [io.ReaderFrom].
func (w *lateHeader) ReadFrom(src io.Reader) (int64, error) {
	part, ok := src.(*io.LimitedReader)
	if w.err != nil {
		return 0, w.err
	}
	if !ok || part.R != w.of {
		return io.Copy(w.ResponseWriter, src) // several ranges, as multipart
	}
	n, err := w.of.WriteNext(w.ResponseWriter, part.N)
	part.N -= n
	if err == io.EOF {
		err = nil
	}
	return n, err
}
