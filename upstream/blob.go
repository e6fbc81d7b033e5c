package upstream

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/reference"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/header"
)

// Body is a blob, or a range of one, that is being transferred. Reading it does
// not check the digest, which is up to the caller. Read returns an [*Error], or
// the context's error.
type Body struct {
	io.ReadCloser

	// Size is the size of the whole blob in bytes, or -1 if it is unknown.
	Size int64

	// Offset is the position in the blob at which the body starts. It is 0 if
	// the registry ignored the range.
	Offset int64

	// End is the position in the blob at which the body of a range ends. It is 0
	// for a whole blob.
	End int64

	// ETag is the entity tag of the response, to be passed to the next
	// [Registry.Blob] of the same blob. It may be empty.
	ETag string

	// Plain reports whether an https registry redirected to plain http. The body
	// is then trustworthy only if the digest of the whole blob matches.
	Plain bool
}

// StatBlob returns the size of a blob in bytes, or -1 if the registry has the
// blob but does not tell its size. If the caller knows the size, it passes it as
// known, otherwise -1; a response with another size is then invalid.
//
// StatBlob sends a HEAD. If that is rejected or contradicts known, a GET decides,
// whose body is not read. Errors are those of [Registry.Blob]. The kind is
// [Invalid] if the response is a web page or is about another size or digest, and
// the cause is [ErrPlainHTTP] if the registry redirects to plain http.
func (r *Registry) StatBlob(ctx context.Context, repository string, d digest.Digest, known int64) (int64, error) {
	c, err := newBlobCall(repository, d)
	if err != nil {
		return 0, err
	}
	c.verified = false // the content is not read
	ctx, cancel := r.withTimeout(ctx)
	defer cancel()
	headCall := c.withMethod(http.MethodHead)
	head, err := r.do(ctx, headCall)
	if err != nil {
		return 0, err
	}
	ref := repository + "@" + string(d)
	if head.StatusCode == http.StatusOK {
		_ = head.Body.Close()
		if size, err := r.blobSize(headCall, head, d, known); err == nil && size >= 0 {
			r.blobHeads.recordSuccess()
			return size, nil
		}
	} else if err := r.headError(r.blobHeads, headCall, ref, head); err != nil {
		return 0, err
	}
	get, err := r.do(ctx, c)
	if err != nil {
		return 0, err
	}
	if get.StatusCode != http.StatusOK {
		err = r.statusError(c, get)
	}
	r.blobHeads.recordGet(ref, head, err, r.now())
	if err != nil {
		return 0, err
	}
	_ = get.Body.Close()
	return r.blobSize(c, get, d, known)
}

// blobSize returns the size of a blob according to the header of a response with
// status 200. Without a size there, it returns known, which may be -1.
func (r *Registry) blobSize(c *call, resp *response, d digest.Digest, known int64) (int64, error) {
	sent, err := reference.ParseDigest(resp.Header.Get("Docker-Content-Digest"))
	size := resp.ContentLength
	switch {
	case err == nil && sent.Algorithm() == d.Algorithm() && sent != d:
		return 0, r.newError(c, Invalid, resp.StatusCode, "the response is about another digest")
	case header.MediaType(resp.Header) == "text/html":
		return 0, r.newError(c, Invalid, resp.StatusCode, "the response is a web page")
	case size == 0 && d.Algorithm().FromString("") != d, isEncoded(resp.Response):
		size = -1 // some registries send 0 for every blob
	}
	if known >= 0 && size >= 0 && size != known {
		return 0, r.newError(c, Invalid, resp.StatusCode, fmt.Sprintf("the response announces %d bytes, want %d", size, known))
	}
	return max(size, known), nil
}

// Blob fetches length bytes of a blob from offset on, or all that follows offset
// if length is -1 (distribution-spec v1.1, "Pulling blobs"; RFC 9110, section
// 14). An etag from an earlier [Body] ensures that the range belongs to the same
// content. The registry may send the whole blob or a shorter range all the same:
// Offset and End of the body tell. If it refuses the range, in whatever way, it is
// asked for the whole blob.
//
// Blob waits at most 30 s for the body to begin; the transfer itself has no time
// limit. The error is an [*Error], most often of kind [BlobUnknown],
// [NameUnknown], [Denied] or [RateLimited], or the context's error. An invalid
// repository, digest or range is neither. The caller closes the body.
func (r *Registry) Blob(ctx context.Context, repository string, d digest.Digest, offset, length int64, etag string) (*Body, error) {
	c, err := newBlobCall(repository, d)
	if err != nil {
		return nil, err
	}
	if offset < 0 || length == 0 || length < -1 {
		return nil, fmt.Errorf("invalid range: %d bytes from offset %d", length, offset)
	}
	// A deadline would also end the transfer of the body; the timer is stopped.
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(r.timeout, func() { cancel(timeoutError(r.timeout)) })
	b, err := r.blob(ctx, c, byteRange{offset, length}, etag)
	timer.Stop()
	if err != nil {
		cancel(nil)
		return nil, err
	}
	status := http.StatusOK
	if b.End > 0 {
		status = http.StatusPartialContent
	}
	b.ReadCloser = &bodyReader{ReadCloser: b.ReadCloser, registry: r, call: c, status: status, ctx: ctx, cancel: cancel}
	return b, nil
}

func newBlobCall(repository string, d digest.Digest) (*call, error) {
	c, err := newDigestCall("blob", repository, "blobs", d)
	if err != nil {
		return nil, err
	}
	c.notFound = BlobUnknown
	c.verified = true
	return c, nil
}

// blob sends the request for a range, and a second one for the whole blob if the
// response to the first cannot be used. The registry is then asked for no ranges
// for rangeDistrustPeriod.
func (r *Registry) blob(ctx context.Context, c *call, want byteRange, etag string) (*Body, error) {
	if want == wholeBlob || r.rangeHistory.distrusts(r.now()) {
		return r.wholeBlob(ctx, c)
	}
	resp, err := r.do(ctx, c.withRange(want, etag))
	if err != nil {
		return nil, err
	}
	switch {
	case resp.StatusCode == http.StatusOK:
		return newBody(resp), nil
	case resp.StatusCode == http.StatusPartialContent:
		if b, err := newPartialBody(resp, want); err == nil {
			return b, nil
		}
	case !mayBeForRange(resp):
		return nil, r.statusError(c, resp)
	}
	discard(resp.Body)
	b, err := r.wholeBlob(ctx, c)
	// With 416, the blob may be empty, or shorter at the registry than the caller
	// expects. The whole blob, checked against its digest, shows which.
	if err == nil && (resp.StatusCode != http.StatusRequestedRangeNotSatisfiable || want.offset == 0 && b.Size != 0) {
		r.rangeHistory.recordRefusal(r.now())
	}
	return b, err
}

// wholeBlob sends a request without a range.
func (r *Registry) wholeBlob(ctx context.Context, c *call) (*Body, error) {
	resp, err := r.get(ctx, c)
	if err != nil {
		return nil, err
	}
	return newBody(resp), nil
}

// newBody returns the body of a response with a whole blob. A Content-Encoding does
// not matter: the request excludes codings, but some storages label blobs with one
// that they do not apply. The digest shows whether the bytes are right.
func newBody(resp *response) *Body {
	return &Body{ReadCloser: resp.Body, Size: resp.ContentLength, ETag: resp.Header.Get("ETag"), Plain: resp.plain}
}

// newPartialBody returns the body of a response with status 206. It does not close
// the response if that cannot be used.
func newPartialBody(resp *response, want byteRange) (*Body, error) {
	size, end, err := parseContentRange(resp.Header.Get("Content-Range"), want, resp.ContentLength)
	if err != nil {
		return nil, err
	}
	return &Body{ReadCloser: resp.Body, Size: size, Offset: want.offset, End: end, ETag: resp.Header.Get("ETag"), Plain: resp.plain}, nil
}

// bodyReader reads the body of a blob. It converts errors, and ends the request's
// context when it is closed.
type bodyReader struct {
	io.ReadCloser
	registry *Registry
	call     *call
	status   int // of the response
	ctx      context.Context
	cancel   context.CancelCauseFunc
}

// Read implements [io.Reader].
func (b *bodyReader) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = b.registry.transferError(b.ctx, b.call, b.status, err)
	}
	return n, err
}

// Close implements [io.Closer].
func (b *bodyReader) Close() error {
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}
