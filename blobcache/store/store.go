// Package store stores content and records.
//
// [Blobs] stores whole, verified content under its digest, and [Records] small
// values under slash-separated keys, such as which repository contains which
// content. [FileStore] implements both in a directory that several processes may
// share. Content and records become visible by rename only: after a crash they are
// whole or absent, and the next start removes the temporary files of processes
// that have ended. Content that something else has written to is verified again
// before it is opened.
//
// Absent content and records are errors that are fs.ErrNotExist, and damaged
// content is [ErrDamaged]. Package storetest has a conformance suite for each
// interface.
package store

import (
	"context"
	_ "crypto/sha256" // the digest algorithms that can be verified
	_ "crypto/sha512"
	"errors"
	"io"
	"os"
	"time"

	"github.com/opencontainers/go-digest"
)

// ErrDamaged means that the stored content does not have its digest, or that
// something else stands in its place. It stays damaged until it is removed.
var ErrDamaged = errors.New("stored content is damaged")

// Blobs stores whole, verified content under its digest. Callers verify content
// before they commit it, so an implementation need not. Implementations must be
// safe for concurrent use, also by several processes.
type Blobs interface {
	// Open returns the content of d, positioned at its start, or an error that
	// is fs.ErrNotExist if it is not stored. A result that is an *os.File can
	// be sent without copying it through user space. An implementation whose
	// files others may write to verifies content that may have changed since it
	// was last verified, and returns an error that is ErrDamaged if it did.
	// Requests for the same content wait for one such verification.
	Open(ctx context.Context, d digest.Digest) (io.ReadSeekCloser, error)

	// Spool returns an empty temporary file for Commit.
	Spool(ctx context.Context) (*os.File, error)

	// Commit makes the spool's content durable under d. The file stays open and
	// readable, and its temporary name is gone when Commit returns nil.
	// Committing content that is already stored is not an error.
	Commit(ctx context.Context, d digest.Digest, spool *os.File) error

	// Remove removes d. Removing absent content is not an error, and content
	// that is being read stays readable until it is closed.
	Remove(ctx context.Context, d digest.Digest) error

	// Walk visits all stored content in any order, without holding it all in
	// memory, and stops at the first error that visit returns. Content that is
	// stored or removed meanwhile may be visited or not. Any other error means
	// that the walk could not see all content; it has visited the rest.
	Walk(ctx context.Context, visit func(Entry) error) error

	// Stat describes stored content as Walk does. The error is fs.ErrNotExist
	// if the content is not stored, and ErrDamaged as well if something else
	// stands in its place.
	Stat(ctx context.Context, d digest.Digest) (Entry, error)

	// Check reads the content and compares it with its digest. The error is
	// fs.ErrNotExist if the content is not stored, and ErrDamaged if it has
	// another digest. After each read Check calls wait, if it is not nil, with
	// the number of bytes read.
	Check(ctx context.Context, d digest.Digest, wait func(ctx context.Context, n int) error) error

	// Touch records when content was last used, so that Walk and Stat report
	// it, also in other processes. Touching content that is absent, or that
	// must be verified first, does nothing and is not an error.
	Touch(ctx context.Context, d digest.Digest, used time.Time) error

	// Free returns the free and the total bytes of the disk, or zeros if they
	// are not known.
	Free(ctx context.Context) (free, total int64, err error)
}

// Entry describes stored content.
type Entry struct {
	Digest digest.Digest
	Size   int64 // in bytes
	Used   time.Time

	// Doubtful is set if the content may have changed since it was verified, so
	// that Open verifies it again.
	Doubtful bool
}

// Records stores small values that may change; the last writer wins. Keys are
// slash-separated paths of non-empty components, none of which is "." or "..".
// Implementations must be safe for concurrent use, also by several processes.
type Records interface {
	// Load returns the value, or an error that is fs.ErrNotExist if there is none.
	Load(ctx context.Context, key string) ([]byte, error)

	// Save replaces the whole value or, if it fails, nothing.
	Save(ctx context.Context, key string, value []byte) error

	// List visits all records whose keys begin with the components of prefix,
	// without holding them all in memory, and stops at the first error that
	// visit returns. Records whose keys share their first components are visited
	// one after the other. Records that are saved or deleted meanwhile may be
	// visited or not; visit may delete the record that it visits.
	List(ctx context.Context, prefix string, visit func(Record) error) error

	// Mark sets when a record was last used. Marking an absent record is not an
	// error.
	Mark(ctx context.Context, key string, used time.Time) error

	// Delete removes a record. Deleting an absent record is not an error.
	Delete(ctx context.Context, key string) error
}

// Tiered is implemented by [Records] that keep a copy elsewhere, which other processes
// share. Load finds a record in either place, and Delete removes it from both.
type Tiered interface {
	// Reload returns the shared value, which another process may have written since
	// the record was loaded. The error is fs.ErrNotExist if there is none that a process
	// is known to have written. It is also ErrDamaged if it is certain that no process
	// has written what is there.
	Reload(ctx context.Context, key string) ([]byte, error)

	// Forget removes the record here and leaves the shared one.
	Forget(ctx context.Context, key string) error

	// ListShared visits the shared records whose keys begin with the components of
	// prefix, in any order, until visit returns an error. Used is when a record was last
	// saved, by the clock of the place where the copy is.
	ListShared(ctx context.Context, prefix string, visit func(Record) error) error

	// DeleteBelow removes the shared records whose keys begin with the components of
	// prefix, except for those that are here.
	DeleteBelow(ctx context.Context, prefix string) error
}

// Limited is implemented by [Records] that keep a copy elsewhere, in which the owners of
// links have quotas too.
type Limited interface {
	// LimitOwners keeps what owners have in the copy within limits in bytes, in the
	// background, until release is called.
	LimitOwners(limits map[string]int64) (release func())
}

// Sheltered is implemented by [Blobs] that keep a copy elsewhere.
type Sheltered interface {
	// Removable reports whether there is a copy of the content, so that it can be
	// removed without being lost.
	Removable(ctx context.Context, d digest.Digest) bool

	// Stuck reports whether a copy of the content is not to be expected soon, because
	// the other place fails, or refuses the content.
	Stuck(d digest.Digest) bool
}

// Record describes a record.
type Record struct {
	Key  string
	Used time.Time // when it was last saved or marked
}
