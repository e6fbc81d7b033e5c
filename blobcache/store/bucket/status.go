package bucket

import (
	"cmp"
	"time"
)

// Status describes a bucket and what is to be uploaded.
type Status struct {
	Bucket string // its name, with the prefix
	// Blobs and Records are the numbers of changes that wait or are under way. More
	// may wait that did not fit the queues if Overflow is set.
	Blobs, Records int
	Overflow       bool

	// FailedBlobs and FailedRecords are the numbers of those that have failed although
	// others may succeed, and are tried again within an hour. ObjectError is the error of
	// one of them, or nil.
	FailedBlobs, FailedRecords int
	ObjectError                error

	// Oldest is since when the first of the changes waits, or zero.
	Oldest time.Time

	// ReadError and WriteError are the last failures of reads and writes, with the
	// times when they began to fail, or zero if they work.
	ReadError, WriteError     error
	ReadsFailed, WritesFailed time.Time
}

// Status returns the present state.
func (s *Store) Status() Status {
	blobs, records := s.blobs.status(), s.records.status()
	status := Status{
		Bucket: s.String(), Blobs: blobs.n, Records: records.n, Overflow: blobs.lost || records.lost,
		FailedBlobs: blobs.failed, FailedRecords: records.failed, ObjectError: cmp.Or(blobs.err, records.err), Oldest: blobs.oldest,
	}
	if status.Oldest.IsZero() || !records.oldest.IsZero() && records.oldest.Before(status.Oldest) {
		status.Oldest = records.oldest
	}
	status.ReadsFailed, status.ReadError = s.reads.state()
	status.WritesFailed, status.WriteError = s.writes.state()
	return status
}
