package caddymodule

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/pullthrough"
)

// Header values that do not change between answers.
var (
	jsonType    = []string{"application/json"}
	blobType    = []string{"application/octet-stream"}
	byteRanges  = []string{"bytes"}
	noTransform = []string{"no-transform"}
)

// cacheStatusValues are the values of Cache-Status (RFC 9211).
var cacheStatusValues = [...][]string{
	pullthrough.Hit:         {"dependency-proxy; hit"},
	pullthrough.Miss:        {"dependency-proxy; fwd=miss"},
	pullthrough.Joined:      {"dependency-proxy; fwd=miss; collapsed"},
	pullthrough.Revalidated: {"dependency-proxy; fwd=stale; fwd-status=200"},
	pullthrough.Stale:       {"dependency-proxy; fwd=stale; detail=stale-if-error"},
}

// sendChunk is how much of a blob one sendfile(2) or one write takes at a time,
// after which Caddy's idle timer starts anew. Caddy's own 64 KiB mean sixteen thousand
// deadlines a gigabyte; more than this is no faster, since the client then waits
// longer for the kernel to hand over. A client needs 5 kB/s to get a chunk in a
// minute.
const sendChunk = 256 << 10

func (ex *exchange) wantsBody() bool { return ex.r.Method != http.MethodHead }

// setContentHeaders sets the headers common to all responses with content.
func (ex *exchange) setContentHeaders(mediaType []string, d digest.Digest, status pullthrough.Status) (etag string) {
	h := ex.w.Header()
	etag = `"` + d.String() + `"`
	h["Content-Type"] = mediaType
	h["Docker-Content-Digest"] = []string{d.String()}
	h["Etag"] = []string{etag}
	h["Cache-Control"] = noTransform
	h["Cache-Status"] = cacheStatusValues[status]
	return etag
}

// notModified answers a client that says it has the content.
func (ex *exchange) notModified(etag string) bool {
	known := ex.r.Header.Get("If-None-Match")
	if known != "*" && !strings.Contains(known, etag) {
		return false
	}
	ex.w.WriteHeader(http.StatusNotModified)
	return true
}

func (ex *exchange) setLength(size int64) {
	ex.w.Header()["Content-Length"] = []string{strconv.FormatInt(size, 10)}
}

func (ex *exchange) sendBlobHead(d digest.Digest, size int64, status pullthrough.Status) {
	if ex.notModified(ex.setContentHeaders(blobType, d, status)) {
		return
	}
	ex.w.Header()["Accept-Ranges"] = byteRanges
	if size >= 0 {
		ex.setLength(size)
	}
	ex.w.WriteHeader(http.StatusOK)
}

// sendBlob sends the bytes, or the ranges of them that are asked for. Once the
// header is out an error can only be shown by a broken transfer.
func (ex *exchange) sendBlob(d digest.Digest, r *blobcache.Reader, status pullthrough.Status) {
	ex.setContentHeaders(blobType, d, status)
	defer ex.widenChunks()()
	if partial(ex.r.Header) && r.Size() >= 0 && r.Parts() {
		http.ServeContent(&ranges{ex.w, r}, ex.r, "", time.Time{}, r)
		if r.Err() != nil {
			panic(http.ErrAbortHandler)
		}
		return
	}
	ex.w.Header()["Accept-Ranges"] = byteRanges
	if r.Size() >= 0 {
		ex.setLength(r.Size())
	}
	ex.w.WriteHeader(http.StatusOK)
	if _, err := r.WriteTo(ex.w); err != nil {
		panic(http.ErrAbortHandler)
	}
}

// ranges is what [http.ServeContent] writes the ranges of a blob to. It has the
// reader write them: io.Copy would make a buffer for each of Caddy's chunks.
type ranges struct {
	http.ResponseWriter
	of *blobcache.Reader
}

// ReadFrom implements [io.ReaderFrom].
func (w *ranges) ReadFrom(src io.Reader) (int64, error) {
	part, ok := src.(*io.LimitedReader)
	if !ok || part.R != w.of {
		return io.Copy(w.ResponseWriter, src) // several ranges, with what stands between them
	}
	n, err := w.of.WriteNext(w.ResponseWriter, part.N)
	part.N -= n
	if err == io.EOF {
		err = nil
	}
	return n, err
}

// partial reports whether the answer may be other than the whole with 200. A
// range in another unit than bytes is to be ignored (RFC 9110, section 14.2).
func partial(h http.Header) bool {
	return strings.HasPrefix(h.Get("Range"), "bytes=") || h.Get("If-None-Match") != "" || h.Get("If-Match") != ""
}

// widenChunks raises the size that Caddy sends between two resets of its idle
// timer, unless the configuration has set another than Caddy's default, which
// Caddy writes in where there is none.
func (ex *exchange) widenChunks() (restore func()) {
	_, w := caddyhttp.IdleTimeoutsFromContext(ex.r.Context())
	if w == nil || w.MaxChunk != 0 && w.MaxChunk != caddyhttp.DefaultMaxWriteChunk {
		return func() {}
	}
	before := w.MaxChunk
	w.MaxChunk = sendChunk
	return func() { w.MaxChunk = before }
}
