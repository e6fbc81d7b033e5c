package fill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/opencontainers/go-digest"
)

// Copy returns content that is small enough for memory, of a known size in bytes, from
// the first of the replicas that has it. The limits are those of the content's source.
// The error is [fs.ErrNotExist] if none has it, or the cause of ctx.
func (t *Table) Copy(ctx context.Context, d digest.Digest, size int64, from []Replica, limits SourceLimits) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	m := newMeter(&Request{Source: limits}, cancel, nil)
	s := t.withReplicas(&Request{Digest: d, Source: limits, Replicas: from}, Standing{Linked: true, Size: size}, always)
	for {
		body, err := s.fetch(ctx, m, 0, -1)
		if body == nil || err != nil {
			break
		}
		content := make([]byte, size)
		_, err = io.ReadFull(body, content)
		_ = body.Close()
		switch {
		case errors.Is(err, errReplica):
			continue
		case err != nil:
			return nil, err
		case d.Algorithm().FromBytes(content) == d:
			return content, nil
		}
		s.mismatched(fmt.Errorf("%s: %w", d, ErrDigestMismatch))
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return nil, fmt.Errorf("%s: %w", d, fs.ErrNotExist)
}
