package registrytest

import (
	"net/http"
	"time"
)

// blobWriter sends the body of a blob with the faults of its plan, and counts the
// bytes.
type blobWriter struct {
	http.ResponseWriter
	registry *Registry
	request  *http.Request
	plan     plan
	noLength bool
	isError  bool // the body is that of an error response
	sent     int64
}

// WriteHeader implements [http.ResponseWriter].
func (w *blobWriter) WriteHeader(status int) {
	w.isError = status >= http.StatusBadRequest
	if w.noLength {
		w.Header().Del("Content-Length")
		defer w.flush()
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements [http.ResponseWriter].
func (w *blobWriter) Write(p []byte) (int, error) {
	if w.isError {
		return w.ResponseWriter.Write(p)
	}
	if w.plan.corrupt && w.sent == 0 && len(p) > 0 {
		p = append([]byte{p[0] ^ 0xff}, p[1:]...)
	}
	total := len(p)
	for len(p) > 0 {
		if err := w.wait(); err != nil {
			return total - len(p), err
		}
		n, err := w.ResponseWriter.Write(p[:w.step(len(p))])
		w.sent += int64(n)
		w.registry.count(func(c *Counts) { c.BlobBytes += int64(n) })
		if err != nil {
			return total - len(p) + n, err
		}
		p = p[n:]
	}
	return total, nil
}

// wait applies the faults that are due before the next byte: a cut, a stall or a
// delay.
func (w *blobWriter) wait() error {
	gone := w.request.Context().Done()
	if w.plan.cut && w.sent == w.plan.cutAfter && w.plan.faults.takeCut() {
		w.flush()
		panic(http.ErrAbortHandler)
	}
	if w.plan.stall != nil && w.sent == w.plan.stallAt {
		w.flush()
		select {
		case <-w.plan.stall:
		case <-gone:
			return w.request.Context().Err()
		}
	}
	if w.plan.perSecond > 0 && w.sent > 0 {
		w.flush()
		select {
		case <-time.After(time.Second / 50):
		case <-gone:
			return w.request.Context().Err()
		}
	}
	return nil
}

// step returns how many of n bytes can be written before the next fault is due.
func (w *blobWriter) step(n int) int {
	size := int64(n)
	if w.plan.perSecond > 0 {
		size = min(size, max(1, w.plan.perSecond/50))
	}
	if left := w.plan.cutAfter - w.sent; w.plan.cut && left > 0 {
		size = min(size, left)
	}
	if left := w.plan.stallAt - w.sent; w.plan.stall != nil && left > 0 {
		size = min(size, left)
	}
	return int(size)
}

func (w *blobWriter) flush() { w.ResponseWriter.(http.Flusher).Flush() }
