package upstream

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
)

const (
	// smallRead is the part of a response in bytes that is read without
	// waiting for largeReads.
	smallRead = 64 << 10

	// maxLargeReads is the number of responses larger than smallRead that are
	// read at a time. It bounds the memory that an upstream can occupy by
	// sending many of them slowly.
	maxLargeReads = 16

	// maxHugeReads is the same for responses larger than maxManifest, which only
	// lists of tags can be.
	maxHugeReads = 1
)

// response is the response to a call after redirects.
type response struct {
	*http.Response
	*trail
}

// readAll reads the whole body of a response, at most limit bytes, and closes it. It
// undoes a content coding; the result has at most limit bytes, too.
func (r *Registry) readAll(ctx context.Context, c *call, resp *response, limit int64) ([]byte, error) {
	defer resp.Body.Close()
	if resp.ContentLength > limit {
		return nil, r.tooLarge(c, resp, limit)
	}
	content, err := r.readBody(ctx, io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return nil, r.transferError(ctx, c, resp.StatusCode, err)
	}
	if int64(len(content)) > limit {
		return nil, r.tooLarge(c, resp, limit)
	}
	coding := codingOf(resp.Response)
	if coding == "" {
		return content, nil
	}
	turns := r.largeReads
	if limit > maxManifest {
		turns = r.hugeReads // a short body may become a huge one
	}
	select {
	case turns <- struct{}{}:
		defer func() { <-turns }()
	case <-ctx.Done():
		return nil, r.transferError(ctx, c, resp.StatusCode, ctx.Err())
	}
	content, err = decode(content, coding, limit)
	switch {
	case err == errDecodedTooLarge:
		return nil, r.tooLarge(c, resp, limit)
	case err != nil:
		return nil, r.newError(c, Invalid, resp.StatusCode, err.Error())
	}
	return content, nil
}

func (r *Registry) tooLarge(c *call, resp *response, limit int64) *Error {
	return r.newError(c, Invalid, resp.StatusCode, fmt.Sprintf("the response is larger than %d bytes", limit))
}

// readBody reads body to its end. Beyond smallRead it waits for one of the registry's
// large reads, and beyond maxManifest for the huge one.
func (r *Registry) readBody(ctx context.Context, body io.Reader) ([]byte, error) {
	var content bytes.Buffer
	if _, err := io.CopyN(&content, body, smallRead); err == io.EOF {
		return content.Bytes(), nil
	} else if err != nil {
		return nil, err
	}
	for _, step := range []struct {
		turns chan struct{}
		limit int64 // of bytes in this turn, such that the end of a manifest that is too large is seen
	}{{r.largeReads, maxManifest + 2 - smallRead}, {r.hugeReads, math.MaxInt64}} {
		select {
		case step.turns <- struct{}{}:
			defer func() { <-step.turns }()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if _, err := io.CopyN(&content, body, step.limit); err == io.EOF {
			break
		} else if err != nil {
			return nil, err
		}
	}
	return content.Bytes(), nil
}

// isEncoded reports whether a body is not the content itself: its digest and
// length are then those of the encoded form.
func isEncoded(resp *http.Response) bool {
	return resp.Uncompressed || codingOf(resp) != ""
}

// mediaType returns the media type of a Content-Type header without parameters,
// or "" if it is missing or invalid.
func mediaType(h http.Header) string {
	mediaType, _, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		return ""
	}
	return mediaType
}

// discard closes a body after reading up to 4 KiB of it, so that the connection
// can be reused.
func discard(body io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, body, 4<<10)
	_ = body.Close()
}
