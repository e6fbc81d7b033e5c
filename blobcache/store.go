package blobcache

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/opencontainers/go-digest"
)

// ErrDamaged means that what is stored in the place of some content is not that
// content. It stays damaged until it is removed.
var ErrDamaged = errors.New("stored content is damaged")

// Store keeps whole, verified content under its digest. The cache verifies
// before it commits, so an implementation need not. Implementations must be
// safe for concurrent use, also by several processes.
type Store interface {
	// Open returns the content of d, positioned at its start; an error that
	// is fs.ErrNotExist when it is not stored. A result that is an *os.File
	// can be sent without passing through user space. A store that others may
	// write to verifies what may have been changed since it was verified last:
	// an error that is ErrDamaged says that it was. Requests for the same
	// content wait for one such verification, others for none.
	Open(ctx context.Context, d digest.Digest) (io.ReadSeekCloser, error)

	// Spool returns an empty temporary file that Commit can take.
	Spool(ctx context.Context) (*os.File, error)

	// Commit makes the spool's content durable under d. The file stays open
	// and readable for those who read from it; its temporary name is gone
	// when Commit returns nil. Content that is already there is not an error.
	Commit(ctx context.Context, d digest.Digest, spool *os.File) error

	// Remove forgets d. Removing what is not there is not an error, and
	// content that is being read stays readable until it is closed.
	Remove(ctx context.Context, d digest.Digest) error
}

// Checker is a store that reads its content against its digest.
type Checker interface {
	// Check reads the whole of some content; an error that is fs.ErrNotExist
	// when it is not stored, and one that is ErrDamaged when it does not have
	// its digest. It calls wait, if that is set, with the number of bytes that
	// it has read before it reads on.
	Check(ctx context.Context, d digest.Digest, wait func(ctx context.Context, n int) error) error
}

// Records keeps small values that may change, the last writer winning. Keys
// are slash-separated paths of non-empty components, none of them "." or "..".
type Records interface {
	// Load returns the value; an error that is fs.ErrNotExist if there is none.
	Load(ctx context.Context, key string) ([]byte, error)

	// Save replaces the value as a whole or not at all.
	Save(ctx context.Context, key string, value []byte) error
}

// Record is a record as a walk sees it.
type Record struct {
	Key  string
	Used time.Time // when it was saved or marked
}

// Ledger is [Records] that can be kept within bounds.
type Ledger interface {
	Records

	// List visits all records whose keys begin with the components of prefix,
	// without holding them all in memory, and stops at the first error that
	// visit returns. Keys that share their first components follow upon each
	// other. What comes or goes meanwhile may be visited or not; visit may
	// delete what it is told of.
	List(ctx context.Context, prefix string, visit func(Record) error) error

	// Mark sets when a record was last used. Marking what is not there is not
	// an error.
	Mark(ctx context.Context, key string, used time.Time) error

	// Delete removes a record. Deleting what is not there is not an error.
	Delete(ctx context.Context, key string) error
}

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
