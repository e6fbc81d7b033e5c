package blobcache

import (
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
