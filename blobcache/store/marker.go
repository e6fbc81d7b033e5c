package store

import (
	"hash/fnv"
	"io/fs"
	"os"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
)

// The time of a stored file is the time of its last use in whole seconds plus a
// marker: a number of microseconds that depends on the content's digest and
// size. The store sets it when it has verified the content, and again when it
// records a use, if the marker is still there. Any other write to the file
// replaces it with the time of the write. So the size and time of a file show
// whether it was modified since it was verified; if it was, the store verifies
// the content again before it is served. A copy that keeps times keeps the
// marker.
//
// This detects accidents, not an attacker, who can set times too. It does not
// detect changes without a write, such as those of a failing disk, which a
// scrub finds. Nor does it detect a write while the content is being sent, or
// in the microseconds between the check and the setting of the time when a use
// is recorded.

// mark returns the marker of content. It is never zero, which is what file
// systems without fractions of seconds store.
func mark(d digest.Digest, size int64) time.Duration {
	h := fnv.New64a()
	_, _ = h.Write([]byte(d))
	_, _ = h.Write(strconv.AppendInt([]byte{' '}, size, 10))
	return time.Duration(1+h.Sum64()%999_999) * time.Microsecond
}

// stamped returns a time of use with the marker of content.
func stamped(used time.Time, d digest.Digest, size int64) time.Time {
	return wholeSecond(used).Add(mark(d, size))
}

func wholeSecond(t time.Time) time.Time { return time.Unix(t.Unix(), 0) }

// marked reports whether a file carries the marker of content.
func marked(d digest.Digest, info fs.FileInfo) bool {
	return time.Duration(info.ModTime().Nanosecond()) == mark(d, info.Size())
}

// intact reports whether a file is unchanged since it was verified, as far as
// the file system tells.
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
