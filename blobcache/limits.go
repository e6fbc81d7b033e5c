package blobcache

import (
	"io"
	"time"

	"github.com/opencontainers/go-digest"
)

// Limits bound what a cache stores. Zero means no bound, except for Reserve.
type Limits struct {
	// MaxSize bounds the stored content and the content that is being stored,
	// in bytes. Above 95% of it the least recently used content is evicted,
	// down to 90%. Content larger than that is passed on without being stored.
	MaxSize int64

	// UnusedFor is how long content that is not requested is kept. Nothing is
	// removed for it in the first minutes of a process, nor while the clock is
	// obviously wrong.
	UnusedFor time.Duration

	// MaxBlobSize is the size in bytes above which content is passed on without
	// being stored.
	MaxBlobSize int64

	// Reserve is the number of bytes of the disk that are left free. Zero means
	// 5% of the disk, at most 1 GiB; a negative number means none.
	Reserve int64

	// StopAbandoned ends a fill when its last reader has left, unless it is
	// nearly done. By default every fill goes on to its end.
	StopAbandoned bool

	// Children, if not nil, returns what content names; nothing if the content
	// is of a kind that names nothing, which it should detect from the first
	// bytes. Content and its children are used and evicted together.
	Children func(content io.Reader) []Child
}

// Child is content that other content names.
type Child struct {
	Digest digest.Digest

	// Compound is set if it may name content in turn.
	Compound bool
}

const maxDefaultReserve = 1 << 30
