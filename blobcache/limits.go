package blobcache

import (
	"context"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
)

// Limits bound what a cache keeps. A zero is no bound, but for Reserve.
type Limits struct {
	// MaxSize is of all stored content and all that is being stored, in
	// bytes. Above nine tenths and a half of it, what was least recently
	// used goes, down to nine tenths. Content that is larger than these is
	// passed on without being stored.
	MaxSize int64

	// UnusedFor is how long content that nobody asks for is kept. Nothing goes
	// for it in the first minutes of a process, nor while the clock is
	// obviously wrong.
	UnusedFor time.Duration

	// MaxBlobSize is the size in bytes above which content is passed on
	// without being stored.
	MaxBlobSize int64

	// Reserve is how many bytes of the disk are left free for others. Zero
	// is a twentieth of the disk and at most 1 GiB; a negative number none.
	Reserve int64

	// StopAbandoned ends a fill that nobody reads any more, unless it is
	// nearly done. By default every fill goes on to its end.
	StopAbandoned bool

	// Parts, if set, returns what some content names; nothing if it is of a
	// kind that names nothing, which it should find out from the first bytes.
	// Content and its parts are used together, and go together.
	Parts func(content io.Reader) []Part
}

// Part is content that other content names.
type Part struct {
	Digest digest.Digest

	// Compound says that it may name content in turn.
	Compound bool
}

const maxDefaultReserve = 1 << 30

// Entry is stored content as a sweep sees it.
type Entry struct {
	Digest digest.Digest
	Size   int64 // in bytes
	Used   time.Time

	// Doubtful says that the content may have been changed since it was
	// verified, so that Open will verify it.
	Doubtful bool
}

// Shelf is a [Store] whose content can be kept within bounds.
type Shelf interface {
	Store
	Checker

	// Walk visits all stored content in any order, without holding it all
	// in memory, and stops at the first error that visit returns. What
	// comes or goes meanwhile may be visited or not. An error of the shelf's
	// own means that there is more: the rest has been visited.
	Walk(ctx context.Context, visit func(Entry) error) error

	// Stat returns what Walk would tell of some content; an error that is
	// fs.ErrNotExist when it is not stored, and ErrDamaged as well when
	// something else stands in its place.
	Stat(ctx context.Context, d digest.Digest) (Entry, error)

	// Touch records when content was last used, so that a later Walk, also
	// of another process, tells it. Content that is not there, or that has to be
	// verified first, is left alone without an error.
	Touch(ctx context.Context, d digest.Digest, used time.Time) error

	// Free returns how many bytes of disk are free, and how many there are;
	// zeros if that is not known.
	Free(ctx context.Context) (free, total int64, err error)
}
