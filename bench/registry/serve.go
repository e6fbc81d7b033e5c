package registry

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// ServeHTTP serves manifests and blobs of the distribution API, and GET /stats.
func (r *Registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	const repository = "/v2/bench/"
	path := req.URL.Path
	if path == "/stats" {
		s := r.Stats()
		_, _ = fmt.Fprintf(w, `{"requests":%d,"bytes":%d,"active":%d}`, s.Requests, s.Bytes, s.Active)
		return
	}
	time.Sleep(r.options.Latency)
	if path == "/v2/" {
		return
	}
	if reference, ok := strings.CutPrefix(path, repository+"manifests/"); ok {
		if content := r.manifest(reference); content != nil {
			serveSmall(w, req, digestOf(content), manifestType, content)
			return
		}
	}
	if d, ok := strings.CutPrefix(path, repository+"blobs/"); ok {
		r.mu.Lock()
		content, im := r.small[d], r.large[d]
		r.mu.Unlock()
		if content != nil {
			serveSmall(w, req, d, "application/octet-stream", content)
			return
		}
		if im != nil {
			r.serveLarge(w, req, im)
			return
		}
	}
	http.NotFound(w, req)
}

// setContentHeaders sets the headers of a response with the content of a digest.
func setContentHeaders(h http.Header, d, mediaType string) {
	h.Set("Content-Type", mediaType)
	h.Set("Docker-Content-Digest", d)
	h.Set("ETag", `"`+d+`"`)
}

// serveSmall serves a manifest, a configuration or a small layer.
func serveSmall(w http.ResponseWriter, req *http.Request, d, mediaType string, content []byte) {
	setContentHeaders(w.Header(), d, mediaType)
	http.ServeContent(w, req, "", time.Time{}, bytes.NewReader(content))
}

// serveLarge serves a large layer or a range of it.
func (r *Registry) serveLarge(w http.ResponseWriter, req *http.Request, im *Image) {
	h := w.Header()
	setContentHeaders(h, im.Digest, "application/octet-stream")
	h.Set("Accept-Ranges", "bytes")
	from, to, status := int64(0), im.Size, http.StatusOK
	asked := req.Header.Get("Range")
	if same := req.Header.Get("If-Range"); asked != "" && (same == "" || same == h.Get("ETag")) {
		var ok bool
		if from, to, ok = parseRange(asked, im.Size); ok {
			status = http.StatusPartialContent
			h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to-1, im.Size))
			if from >= to {
				h.Set("Content-Range", fmt.Sprintf("bytes */%d", im.Size))
				w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
				return
			}
		}
	}
	h.Set("Content-Length", strconv.FormatInt(to-from, 10))
	w.WriteHeader(status)
	if req.Method == http.MethodHead {
		return
	}
	r.requests.Add(1)
	r.active.Add(1)
	defer r.active.Add(-1)
	out, step := io.Writer(counted{w, &r.bytes}), int64(blockSize)
	if p, _ := req.Context().Value(pacerKey{}).(*pacer); p != nil && p.rate > 0 {
		out, step = paced{out, p}, pacedStep
	}
	_ = im.write(out, from, to, step) // fails if the client has left
}

// parseRange parses a Range header with one range of bytes (RFC 9110, section
// 14.1.2). It returns the whole layer and false for any other header, which a
// server may ignore.
func parseRange(header string, size int64) (from, to int64, ok bool) {
	spec, isBytes := strings.CutPrefix(header, "bytes=")
	first, last, isRange := strings.Cut(spec, "-")
	if !isBytes || !isRange {
		return 0, size, false
	}
	a, errFirst := strconv.ParseUint(first, 10, 62)
	b, errLast := strconv.ParseUint(last, 10, 62)
	switch {
	case errFirst == nil && last == "":
		return int64(a), size, true
	case errFirst == nil && errLast == nil && a <= b:
		return int64(a), min(int64(b)+1, size), true
	case first == "" && errLast == nil:
		return max(size-int64(b), 0), size, true
	}
	return 0, size, false
}

// counted is a writer that adds the bytes written to n.
type counted struct {
	io.Writer
	n *atomic.Int64
}

// Write implements [io.Writer].
func (c counted) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.n.Add(int64(n))
	return n, err
}

const (
	// pacedStep is the number of bytes that are written at a time if the rate is
	// limited.
	pacedStep = 128 << 10

	// pacedSlack is the delay that is made up for after a late write. Sleeps end
	// late, on some machines by more than a step takes.
	pacedSlack = 5 * time.Millisecond
)

// pacer limits the rate of one connection, over all its responses.
type pacer struct {
	rate float64   // bytes per second
	next time.Time // of the next write
}

type pacerKey struct{}

// paced is a writer that keeps the rate of a pacer.
type paced struct {
	io.Writer
	*pacer
}

// Write implements [io.Writer]. It waits until the rate permits a write; the first
// write is not delayed. A connection sends one response at a time, so Write needs
// no lock.
func (p paced) Write(b []byte) (int, error) {
	now := time.Now()
	if p.next.IsZero() {
		p.next = now
	}
	if least := now.Add(-pacedSlack); p.next.Before(least) {
		p.next = least
	}
	time.Sleep(p.next.Sub(now))
	p.next = p.next.Add(time.Duration(float64(len(b)) / p.rate * float64(time.Second)))
	return p.Writer.Write(b)
}
