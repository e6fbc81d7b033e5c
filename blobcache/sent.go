package blobcache

import (
	"bytes"
	"fmt"
)

// sent is the range of bytes that a reader has got from a spool since its last Seek. The
// digest of a spool that fails is never checked, so if the reader goes on with another
// transfer, that one must bring the same bytes again.
type sent struct {
	from, to int64
}

// check returns an error if the bytes that another transfer has brought for an
// offset differ from those sent, or if the spool can no longer tell.
func (s sent) check(spool *fill, p []byte, at int64) error {
	from, to := max(at, s.from), min(at+int64(len(p)), s.to)
	if from >= to || spool.verified() {
		return nil
	}
	had := takeBuffer(false)
	defer had.release()
	b := had.b[:to-from]
	if _, err := spool.file.ReadAt(b, from); err != nil {
		return fmt.Errorf("the bytes sent from %d to %d cannot be verified: %w", from, to, err)
	}
	if !bytes.Equal(b, p[from-at:to-at]) {
		return fmt.Errorf("the source sends other bytes from %d to %d than before: %w", from, to, ErrDigestMismatch)
	}
	return nil
}
