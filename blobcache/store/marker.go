package store

import (
	"hash/fnv"
	"io/fs"
	"os"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
)

// The time of a stored file is the time of its last use in whole seconds, and
// below them a marker: a number of microseconds that follows from the content's
// digest and size. The store sets it when the content has been verified, and again
// when it records a use, if it is still there. Any other write to the file makes
// the file system replace it by the time of the write. So the size and time of a
// file, as fstat returns them, show whether it was modified since it was verified.
// If so, the store verifies the content again before it is served. A copy that
// keeps times keeps the marker.
//
// This detects accidents, not an attacker, who can set times as well. It does not
// see what changes without a write: what the disk has damaged is found by a
// [Cache.Scrub]. Nor does it see a write that happens while the content is being
// sent, or in the microseconds between the look and the setting of the time when a
// use is recorded.

// mark is the marker of content. It is never zero, which is what file systems
// without fractions of seconds have.
func mark(d digest.Digest, size int64) time.Duration {
	h := fnv.New64a()
	_, _ = h.Write([]byte(d))
	_, _ = h.Write(strconv.AppendInt([]byte{' '}, size, 10))
	return time.Duration(1+h.Sum64()%999_999) * time.Microsecond
}

// stamped is a time of use with the marker of content.
func stamped(used time.Time, d digest.Digest, size int64) time.Time {
	return wholeSecond(used).Add(mark(d, size))
}

func wholeSecond(t time.Time) time.Time { return time.Unix(t.Unix(), 0) }

// marked reports whether a file carries the marker of content.
func marked(d digest.Digest, info fs.FileInfo) bool {
	return time.Duration(info.ModTime().Nanosecond()) == mark(d, info.Size())
}

// intact reports whether a file is as it was when it was verified, as far as the
// file system can tell.
func (s *FileStore) intact(d digest.Digest, info fs.FileInfo) bool {
	return s.coarse || marked(d, info)
}

// keepsMarkers reports whether the file system of a file stores times as precisely
// as markers need it. It looks at what another opening of the file is told.
func (s *FileStore) keepsMarkers(file *os.File) (bool, error) {
	d := digest.FromString(file.Name())
	if err := setTimes(file, stamped(time.Now(), d, 0)); err != nil {
		return false, err
	}
	again, info, err := s.open(file.Name(), os.O_RDONLY)
	if err != nil {
		return false, err
	}
	return marked(d, info), again.Close()
}
