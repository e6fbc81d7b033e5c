package upstream

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/reference"
)

// Body is the content of a blob on its way. The reader does not check the
// digest: whoever puts the pieces together does. Its errors are [*Error]s, or
// the context's own error.
type Body struct {
	io.ReadCloser
	Size   int64  // of the whole blob in bytes, -1 if upstream did not say
	Offset int64  // where the body starts; 0 when the range was ignored
	End    int64  // where the body of a range stops; 0 for a whole blob
	ETag   string // of the answer, to be given back for the next range; may be empty
	// Plain says that an https registry has redirected to plain http: nothing
	// but the digest of the whole vouches for a byte of the body.
	Plain bool
}

// StatBlob returns the size of a blob in bytes, -1 if upstream has it and does
// not say how large it is, or an error as [Registry.Blob] does. A size that is
// known already, else -1, must not be contradicted. It asks with HEAD, and lets
// a GET whose body is not read decide where HEAD refuses, or cannot be right. The
// error is [ErrPlainHTTP] if the answer could only be had over plain http, and
// [Invalid] if it is a web page, or of another size or digest.
func (r *Registry) StatBlob(ctx context.Context, repository string, d digest.Digest, known int64) (int64, error) {
	c, err := blobCall(repository, d)
	if err != nil {
		return 0, err
	}
	c.verified = false // no byte of the content will be seen
	ctx, cancel := r.bounded(ctx)
	defer cancel()
	head := c.with(http.MethodHead)
	a, err := r.do(ctx, head)
	if err != nil {
		return 0, err
	}
	ref := repository + "@" + string(d)
	if a.StatusCode == http.StatusOK {
		_ = a.Body.Close()
		if size, err := r.blobSize(head, a, d, known); err == nil && size >= 0 {
			r.blobHeads.saidYes()
			return size, nil
		}
	} else if err := r.refuse(r.blobHeads, head, ref, a); err != nil {
		return 0, err
	}
	full, err := r.do(ctx, c)
	if err != nil {
		return 0, err
	}
	if full.StatusCode != http.StatusOK {
		err = r.refusal(c, full)
	}
	r.blobHeads.compare(ref, a, err, r.now())
	if err != nil {
		return 0, err
	}
	_ = full.Body.Close()
	return r.blobSize(c, full, d, known)
}

// blobSize reads the size of a blob from the header of an answer with 200. It is
// the known one where the answer tells none, -1 if neither is there.
func (r *Registry) blobSize(c *call, a *answer, d digest.Digest, known int64) (int64, error) {
	said, err := reference.ParseDigest(a.Header.Get("Docker-Content-Digest"))
	size := a.ContentLength
	switch {
	case err == nil && said.Algorithm() == d.Algorithm() && said != d:
		return 0, r.fail(c, Invalid, a.StatusCode, "the answer is about another digest")
	case headerType(a.Header) == "text/html":
		return 0, r.fail(c, Invalid, a.StatusCode, "the answer is a web page")
	case size == 0 && d.Algorithm().FromString("") != d, encoded(a.Response):
		size = -1 // some registries say 0 for whatever they are asked
	}
	if known >= 0 && size >= 0 && size != known {
		return 0, r.fail(c, Invalid, a.StatusCode, fmt.Sprintf("the answer says %d bytes of a blob of %d", size, known))
	}
	return max(size, known), nil
}

// Blob fetches length bytes of a blob from offset on, or all that follows if
// length is -1 (distribution-spec v1.1, "Pulling blobs"; RFC 9110, 14). An etag
// from an earlier [Body] makes sure that the range continues the same bytes.
// Upstream may answer with the whole blob all the same, or with less than was
// asked for: Offset and End of the body say what it has. There is a
// limit of 30 s until the body begins, none on how long it takes. An error is an
// [*Error] (most often [BlobUnknown], [NameUnknown], [Denied] or [RateLimited]),
// the context's error, or neither for a repository, digest or offset that is not
// valid. The caller closes the body.
func (r *Registry) Blob(ctx context.Context, repository string, d digest.Digest, offset, length int64, etag string) (*Body, error) {
	c, err := blobCall(repository, d)
	if err != nil {
		return nil, err
	}
	if offset < 0 || length == 0 || length < -1 {
		return nil, fmt.Errorf("%d bytes of a blob from %d on are no range", length, offset)
	}
	// A timer and not a deadline: it must stop mattering once the body flows.
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(r.limit, func() { cancel(errTooSlow) })
	b, err := r.blob(ctx, c, span{offset, length}, etag)
	timer.Stop()
	if err != nil {
		cancel(nil)
		return nil, err
	}
	b.ReadCloser = &bodyReader{ReadCloser: b.ReadCloser, registry: r, call: c, ctx: ctx, cancel: cancel}
	return b, nil
}

func blobCall(repository string, d digest.Digest) (*call, error) {
	c, err := digestCall("blob", repository, "blobs", d)
	if err != nil {
		return nil, err
	}
	c.unknown = BlobUnknown
	c.verified = true
	return c, nil
}

// span is a part of a blob: so many bytes from an offset on, or all if that is -1.
type span struct{ offset, length int64 }

var wholeBlob = span{0, -1}

func (s span) String() string {
	text := "bytes=" + strconv.FormatInt(s.offset, 10) + "-"
	if s.length > 0 {
		text += strconv.FormatInt(s.offset+s.length-1, 10)
	}
	return text
}

func (r *Registry) blob(ctx context.Context, c *call, want span, etag string) (*Body, error) {
	ranged := c
	if want != wholeBlob {
		ranged = c.with(http.MethodGet)
		ranged.bounded = want.length > 0
		ranged.header = c.header.Clone()
		ranged.header.Set("Range", want.String())
		if strongETag(etag) {
			ranged.header.Set("If-Range", etag)
		}
	}
	a, err := r.do(ctx, ranged)
	if err != nil {
		return nil, err
	}
	if want != wholeBlob && a.StatusCode == http.StatusRequestedRangeNotSatisfiable {
		// The blob is empty, or what upstream has is shorter than what we have:
		// one of us is wrong, and the whole blob tells who.
		discard(a.Body)
		return r.blob(ctx, c, wholeBlob, "")
	}
	partial := want != wholeBlob && a.StatusCode == http.StatusPartialContent
	if a.StatusCode != http.StatusOK && !partial {
		return nil, r.refusal(c, a)
	}
	b := &Body{ReadCloser: a.Body, Size: a.ContentLength, ETag: a.Header.Get("ETag"), Plain: a.plain}
	switch {
	case encoded(a.Response):
		err = r.fail(c, Invalid, a.StatusCode, "the answer is encoded although that was ruled out")
	case partial:
		b.Offset = want.offset
		if b.Size, b.End, err = checkRange(a.Header.Get("Content-Range"), want, a.ContentLength); err == nil {
			break
		}
		if want.offset == 0 {
			// Nothing has come yet, so nothing depends on ranges.
			_ = a.Body.Close()
			return r.blob(ctx, c, wholeBlob, "")
		}
		err = r.fail(c, Invalid, a.StatusCode, err.Error())
	}
	if err != nil {
		_ = a.Body.Close()
		return nil, err
	}
	return b, nil
}

// strongETag reports whether an entity tag can stand in If-Range (RFC 9110,
// 13.1.5): quoted and not weak.
func strongETag(etag string) bool {
	return len(etag) > 2 && etag[0] == '"' && strings.IndexByte(etag[1:], '"') == len(etag)-2 && printable(etag)
}

// checkRange reads "bytes first-last/size" (RFC 9110, 14.4) and returns size and
// the end, last + 1. It must be what was asked for, with that length; only a
// range that had an end may be answered with less.
func checkRange(contentRange string, want span, length int64) (size, end int64, err error) {
	mistake := fmt.Errorf("upstream answered another range than was asked for")
	unit, rest, _ := strings.Cut(contentRange, " ")
	span, sizeText, _ := strings.Cut(rest, "/")
	firstText, lastText, _ := strings.Cut(span, "-")
	if !strings.EqualFold(unit, "bytes") {
		return 0, 0, mistake
	}
	var numbers [3]int64
	for i, text := range []string{firstText, lastText, sizeText} {
		n, err := strconv.ParseUint(text, 10, 63)
		if err != nil {
			return 0, 0, mistake
		}
		numbers[i] = int64(n)
	}
	first, last, size := numbers[0], numbers[1], numbers[2]
	if first != want.offset || last < first || last >= size || length >= 0 && length != last-first+1 {
		return 0, 0, mistake
	}
	if want.length < 0 && last != size-1 || want.length > 0 && last-first >= want.length {
		return 0, 0, mistake
	}
	return size, last + 1, nil
}

// bodyReader gives a blob's body our errors, and ends its context.
type bodyReader struct {
	io.ReadCloser
	registry *Registry
	call     *call
	ctx      context.Context
	cancel   context.CancelCauseFunc
}

func (b *bodyReader) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = b.registry.broken(b.ctx, b.call, err)
	}
	return n, err
}

func (b *bodyReader) Close() error {
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}
