package blobcache

import (
	"context"
	"io"
)

// Body is what a Fetch returns: the content from Offset to End.
type Body struct {
	io.ReadCloser

	// Size is the length of the whole content in bytes, -1 if unknown.
	Size int64

	// Offset is where the body starts. It is 0 when the source could not
	// start where it was asked to.
	Offset int64

	// End is where the body stops. It is 0 for a body that goes on to the
	// end of the content.
	End int64

	// ETag is the source's validator for a later resume, or empty.
	ETag string

	// Plain says that anybody on the way may have written the body: it came
	// over plain HTTP although the source speaks HTTPS. No part of it is handed
	// out but as a part of the whole, whose digest is known before its end.
	Plain bool
}

// Fetch asks the source for length bytes of content from an offset on, or for
// all that follows if length is -1. A source may give more than that, or less:
// the Body says what it is. The etag is that of an earlier Body, empty at the
// first call. It is called from a fill that outlives the request that started
// it, for several ranges at once if the request allows it. The end of ctx must
// end the call, and later the reads of its Body.
type Fetch func(ctx context.Context, offset, length int64, etag string) (*Body, error)
