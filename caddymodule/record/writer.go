package record

import (
	"errors"
	"io"
	"io/fs"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// writer counts what is sent. Like the response writers of Caddy it passes a file on
// as it is, so that the connection can use sendfile(2).
type writer struct {
	caddyhttp.ResponseWriterWrapper
	record *Request
	broken bool // the client has closed the connection
}

// Begin starts the record at the arrival of the request, and returns the response
// writer that must be used in place of w.
func (r *Request) Begin(w http.ResponseWriter) http.ResponseWriter {
	r.Start = time.Now()
	r.writer.ResponseWriter, r.writer.record = w, r
	return &r.writer
}

// WriteHeader implements [http.ResponseWriter].
func (w *writer) WriteHeader(status int) {
	if w.record.Status == 0 && status >= http.StatusOK {
		w.record.Status, w.record.FirstByte = status, time.Since(w.record.Start)
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements [io.Writer].
func (w *writer) Write(p []byte) (int, error) {
	if w.record.Status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	n, err := w.ResponseWriter.Write(p)
	w.record.Bytes += int64(n)
	w.broken = w.broken || err != nil
	return n, err
}

// ReadFrom implements [io.ReaderFrom].
func (w *writer) ReadFrom(src io.Reader) (int64, error) {
	if w.record.Status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	n, err := w.ResponseWriterWrapper.ReadFrom(src)
	w.record.Bytes += n
	unread := (*fs.PathError)(nil) // the file could not be read
	w.broken = w.broken || err != nil && !errors.As(err, &unread)
	return n, err
}

// Interface guards
var (
	_ http.ResponseWriter = (*writer)(nil)
	_ io.ReaderFrom       = (*writer)(nil)
	_ http.Pusher         = (*writer)(nil)
)
