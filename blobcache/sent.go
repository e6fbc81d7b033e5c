package blobcache

import (
	"fmt"
	"hash/maphash"
)

// sent is what a reader has got from a spool since its last Seek. The digest of a
// spool that fails is never checked, so if the reader goes on with another transfer,
// that one must bring the same bytes again.
type sent struct {
	from, to int64
	hash     maphash.Hash // of the bytes
}

func (s *sent) restart(off int64) {
	s.from, s.to = off, off
	s.hash.Reset()
}

func (s *sent) add(p []byte) {
	s.to += int64(len(p))
	_, _ = s.hash.Write(p) // never fails
}

// repeat is a second transfer of what was sent.
type repeat struct {
	sent
	hash maphash.Hash // of the bytes that have come again
}

func (r *repeat) restart() {
	r.hash.SetSeed(r.sent.hash.Seed())
	r.hash.Reset()
}

// check takes the bytes that come at an offset. It returns an error once all that
// was sent has come again, and differs.
func (r *repeat) check(p []byte, at int64) error {
	from, to := max(at, r.from), min(at+int64(len(p)), r.to)
	if from >= to {
		return nil
	}
	_, _ = r.hash.Write(p[from-at : to-at])
	if to == r.to && r.hash.Sum64() != r.sent.hash.Sum64() {
		return fmt.Errorf("the source sends other bytes from %d to %d than before: %w", r.from, r.to, ErrDigestMismatch)
	}
	return nil
}
