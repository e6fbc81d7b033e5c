package fill

import (
	"context"
	"io"
)

// Body is the result of a Fetch: the content from Offset to End.
type Body struct {
	io.ReadCloser

	// Size is the size of the whole content in bytes, or -1 if it is not known.
	Size int64

	// Offset is where the body starts. It is 0 if the source could not start at
	// the requested offset.
	Offset int64

	// End is where the body stops, or 0 if it goes on to the end of the
	// content.
	End int64

	// ETag is the source's validator for a later resume. It may be empty.
	ETag string

	// Plain is set if anyone on the way may have written the body: it came over
	// plain HTTP although the source speaks HTTPS. Its bytes are handed out
	// only as part of the whole content, whose digest is verified before its
	// end.
	Plain bool
}

// Fetch asks the source for length bytes of the content from an offset, or for
// the rest of it if length is -1. A source may return more or less; the Body
// says what it is. The etag is that of an earlier Body, or empty at the first
// call. A fill calls Fetch after the request that started it may have ended,
// and for several ranges at once if the request allows it. When ctx ends, the
// call must end, and so must later reads of its Body.
type Fetch func(ctx context.Context, offset, length int64, etag string) (*Body, error)
