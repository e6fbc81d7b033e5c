package fill

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// Room reserves room for content that is being downloaded.
type Room interface {
	// Fits returns an error that is [ErrTooLarge] if content of this size could
	// not be stored even if all other content were removed. A size of -1,
	// unknown, fits.
	Fits(ctx context.Context, size int64) error

	// Largest returns the largest size that is stored, at most limit unless that
	// is 0.
	Largest(limit int64) int64

	// Open returns an empty reservation for a group, which may be "".
	Open(group string) Reservation

	// Failed is called with an error of storing content.
	Failed(err error)
}

// Reservation is the room of one fill. Its methods are called by one goroutine at
// a time, except for Wrote.
type Reservation interface {
	// Try reserves n bytes if there is room now.
	Try(ctx context.Context, n int64) (ok bool)

	// Reserve reserves n bytes and waits for room for a while.
	Reserve(ctx context.Context, n int64) error

	// Wrote counts bytes that have been written or allocated on the disk.
	Wrote(n int64)

	// Close gives the room back. Stored is the size of the content if it has
	// been stored with it, else 0.
	Close(d digest.Digest, stored int64)
}

// Config is the configuration of a [Table].
type Config struct {
	Blobs store.Blobs
	Room  Room
	Hooks Hooks
	Spans Spans

	// IsStored reports whether content of this size is stored by now, and counts
	// it as used.
	IsStored func(ctx context.Context, d digest.Digest, size int64) bool

	// StopAbandoned ends a fill when its last reader has left, unless it is
	// nearly done.
	StopAbandoned bool
}

// Spans are sizes of ranges in bytes.
type Spans struct {
	First int64 // of the first request for content that may be fetched in ranges
	Least int64 // of those that follow
	Most  int64
}

// DefaultSpans are the sizes in use. The first range is large enough for most layers, so that they need a single
// request. The following ones get smaller towards the end, so that all
// connections end at about the same time.
var DefaultSpans = Spans{First: 32 << 20, Least: 8 << 20, Most: 64 << 20}

// Hooks are called, if they are set, when something happens. They must not
// block.
type Hooks struct {
	// Done is called once for each fill. Err is nil if the content was verified.
	// Size is the number of bytes that were fetched.
	Done func(d digest.Digest, size int64, took time.Duration, err error)

	// Joined is called for each request that follows another request's fill.
	Joined func(d digest.Digest)

	// Resumed is called before a fill asks the source again, which broke off or
	// refused at an offset.
	Resumed func(d digest.Digest, offset int64, err error)

	// Abandoned is called when the last reader of a running fill leaves. Written
	// is the number of bytes that have come, of size bytes in all, or -1 if that
	// is not known. The fill goes on, or ends with [ErrAbandoned].
	Abandoned func(d digest.Digest, written, size int64, goesOn bool)

	// StorageError is called for an error of the storage that a request
	// survives. Op says what was being done.
	StorageError func(op string, err error)
}

func (h Hooks) storageError(op string, err error) {
	if h.StorageError != nil {
		h.StorageError(op, err)
	}
}

func (h Hooks) joined(d digest.Digest) {
	if h.Joined != nil {
		h.Joined(d)
	}
}

func (h Hooks) resumed(d digest.Digest, offset int64, err error) {
	if h.Resumed != nil {
		h.Resumed(d, offset, err)
	}
}

func (h Hooks) abandoned(d digest.Digest, written, size int64, goesOn bool) {
	if h.Abandoned != nil {
		h.Abandoned(d, written, size, goesOn)
	}
}
