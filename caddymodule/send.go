package caddymodule

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/freshness"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/record"
	"github.com/dependencyproxy/caddy-dependency-proxy/pullthrough"
)

const jsonType = "application/json"

// Header values that are the same in all responses.
var (
	blobType    = []string{"application/octet-stream"}
	byteRanges  = []string{"bytes"}
	noTransform = []string{"no-transform"}
)

// contentHeaders are the headers of a response with content, which an error does not
// have.
var contentHeaders = []string{"Accept-Ranges", "Age", "Cache-Status", "Content-Length", "Content-Range", "Docker-Content-Digest", "Etag", "Last-Modified", "Warning"}

// resultOf has the results of responses with content.
var resultOf = [...]record.Result{
	pullthrough.Hit: record.Hit, pullthrough.Miss: record.Miss, pullthrough.Joined: record.Joined,
	pullthrough.Revalidated: record.Revalidated, pullthrough.Stale: record.Stale,
}

// sendChunk is the number of bytes of a blob that one sendfile(2) or one write
// sends, after which Caddy resets its idle timer. Caddy's default of 64 KiB means
// 16,000 resets for a gigabyte. Chunks above 256 KiB are not faster. A client needs
// 5 kB/s to receive a chunk in a minute.
const sendChunk = 256 << 10

// errUnsized is the error of a blob that cannot be sent by HTTP/1.0.
var errUnsized = errors.New("upstream does not tell the size of the blob, which cannot be stored to learn it, and the client uses HTTP/1.0")

func (ex *exchange) wantsBody() bool { return ex.r.Method != http.MethodHead }

// send sends a response whose body, in one or several parts, is in memory. A
// response to HEAD has the length, but no body.
func (ex *exchange) send(status int, mediaType string, parts ...[]byte) {
	var size int64
	for _, part := range parts {
		size += int64(len(part))
	}
	ex.w.Header()["Content-Type"] = []string{mediaType}
	ex.setLength(size)
	ex.w.WriteHeader(status)
	if !ex.wantsBody() {
		return
	}
	for _, part := range parts {
		_, _ = ex.w.Write(part) // an error means that the client has left
	}
}

// sendValue sends a value as JSON. It always returns nil.
func (ex *exchange) sendValue(status int, value any) *apiError {
	body, err := json.Marshal(value)
	if err != nil {
		panic(err) // numbers, strings and times always marshal
	}
	ex.send(status, jsonType, body)
	return nil
}

// takeAnswer reserves memory for a large response that is sent from memory, and
// returns the content to send; see [pullthrough.Outgoing.Take]. A response to HEAD
// needs none.
func (ex *exchange) takeAnswer(key any, content []byte) (shared []byte, done func(), refusal *apiError) {
	if !ex.wantsBody() {
		content = nil
	}
	shared, done, err := ex.handler.cache.outgoing.Take(key, content)
	if err != nil {
		refusal = refuse(unavailable, "too many large responses are being sent; try again later")
		refusal.cause, refusal.retryAfter = err, retrySoon
	}
	return shared, done, refusal
}

// setContentHeaders sets the headers common to all responses with content, and the
// result of the request.
func (ex *exchange) setContentHeaders(mediaType []string, d digest.Digest, origin pullthrough.Origin) (etag string) {
	h := ex.w.Header()
	etag = `"` + d.String() + `"`
	h["Content-Type"] = mediaType
	h["Docker-Content-Digest"] = []string{d.String()}
	h["Etag"] = []string{etag}
	h["Cache-Control"] = noTransform
	freshness.SetHeader(h, origin, ex.rec.Upstream, ex.route.image, ex.route.tag)
	ex.rec.Result, ex.rec.Digest = resultOf[origin.Status], d
	return etag
}

// notModified reports whether the client has the content already, and responds
// with 304 if so.
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
	if ex.notModified(ex.setContentHeaders(blobType, d, pullthrough.Origin{Status: status})) {
		return
	}
	ex.w.Header()["Accept-Ranges"] = byteRanges
	if size >= 0 {
		ex.setLength(size)
	}
	ex.w.WriteHeader(http.StatusOK)
}

// sendBlob sends a blob, or the ranges of it that the client requests. The header is
// sent with the first byte: before that, sendBlob sends nothing and returns an error
// of upstream. After it, an error aborts the connection. That would look like the end
// of the blob to a client of HTTP/1.0, which knows no chunks, unless it knows the size.
func (ex *exchange) sendBlob(d digest.Digest, r *blobcache.Reader, status pullthrough.Status) error {
	defer ex.widenChunks()()
	defer func() {
		switch ex.rec.Source = record.Upstream; {
		case r.Stored():
			ex.rec.Source = record.Cache
		case r.FromReplica() && r.FromPeer():
			ex.rec.Source = record.Peer
		case r.FromReplica():
			ex.rec.Source = record.Replica
		}
	}()
	if r.Size() < 0 && !ex.r.ProtoAtLeast(1, 1) {
		if err := r.AwaitWhole(ex.r.Context()); err != nil {
			return err
		}
		if r.Size() < 0 {
			return errUnsized
		}
	}
	if partial(ex.r.Header) && r.Size() >= 0 && r.Parts() {
		ex.setContentHeaders(blobType, d, pullthrough.Origin{Status: status})
		begun, err := r.ServeContent(ex.w, ex.r)
		if begun && err != nil {
			panic(http.ErrAbortHandler)
		}
		if err != nil {
			for _, name := range contentHeaders {
				ex.w.Header().Del(name)
			}
		}
		return err
	}
	if err := r.AwaitByte(); err != nil {
		return err
	}
	ex.setContentHeaders(blobType, d, pullthrough.Origin{Status: status})
	ex.w.Header()["Accept-Ranges"] = byteRanges
	if r.Size() >= 0 {
		ex.setLength(r.Size())
	}
	ex.w.WriteHeader(http.StatusOK)
	if _, err := r.WriteTo(ex.w); err != nil {
		panic(http.ErrAbortHandler)
	}
	return nil
}

// partial reports whether the response may differ from the whole blob with status
// 200. A range in another unit than bytes is ignored (RFC 9110, section 14.2).
func partial(h http.Header) bool {
	return strings.HasPrefix(h.Get("Range"), "bytes=") || h.Get("If-None-Match") != "" || h.Get("If-Match") != ""
}

// widenChunks raises the number of bytes that Caddy sends between two resets of its
// idle timer to sendChunk, unless the configuration sets another number than Caddy's
// default. It returns a function that restores the number.
func (ex *exchange) widenChunks() (restore func()) {
	_, w := caddyhttp.IdleTimeoutsFromContext(ex.r.Context())
	if w == nil || w.MaxChunk != 0 && w.MaxChunk != caddyhttp.DefaultMaxWriteChunk {
		return func() {}
	}
	before := w.MaxChunk
	w.MaxChunk = sendChunk
	return func() { w.MaxChunk = before }
}
