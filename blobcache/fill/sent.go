package fill

import (
	"bytes"
	"fmt"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/internal/buffer"
)

// sent is the range of bytes that a reader got from a spool since its last
// Seek. If the spool fails, its digest is never checked, so a transfer that the
// reader goes on with must bring the same bytes.
type sent struct {
	from, to int64
}

// check returns an error if the bytes p of another transfer, at offset at,
// differ from those sent, or if the spool cannot be read to compare them.
func (s sent) check(spool *fill, p []byte, at int64) error {
	from, to := max(at, s.from), min(at+int64(len(p)), s.to)
	if from >= to || spool.verified() {
		return nil
	}
	had := buffer.Take(false)
	defer had.Release()
	b := had.B[:to-from]
	if _, err := spool.file.ReadAt(b, from); err != nil {
		return fmt.Errorf("the bytes sent from %d to %d cannot be verified: %w", from, to, err)
	}
	if !bytes.Equal(b, p[from-at:to-at]) {
		return fmt.Errorf("the source sends other bytes from %d to %d than before: %w", from, to, ErrDigestMismatch)
	}
	return nil
}
