package fill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
)

// replicas are the replicas of one request. A nil value has none.
type replicas struct {
	table  *Table
	digest digest.Digest
	size   int64 // in bytes
	limits SourceLimits

	mu   sync.Mutex
	left []Replica // that are not given up, in order
	used []Replica // that have answered
	done bool      // the source is asked
}

// withReplicas returns the replicas that may be asked for a request. The scope must be
// linked to the content. If its source has delivered the content to others, the source
// is asked to confirm it for the scope, which is recorded in standing. The error is
// Confirm's.
func (t *Table) withReplicas(ctx context.Context, req *Request, standing *Standing, share sharing) (*replicas, error) {
	s := t.replicasFor(req, standing.Size)
	if s == nil {
		return nil, nil
	}
	if !standing.Linked {
		if !standing.Delivered || share == never || t.runs(req.shared()) {
			return nil, nil
		}
		err := req.Claim.Confirm(ctx, standing.Size)
		if errors.Is(err, ErrUnconfirmed) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		req.Claim.Delivered(standing.Size)
		standing.Linked = true
	}
	return s, nil
}

// replicasFor returns the replicas of a request for content of a size, or nil without
// any. Empty content is not worth asking them.
func (t *Table) replicasFor(req *Request, size int64) *replicas {
	if len(req.Replicas) == 0 || size <= 0 || t.distrusted.Contains(req.Digest) {
		return nil
	}
	return &replicas{table: t, digest: req.Digest, size: size, limits: req.Source.withDefaults(), left: slices.Clone(req.Replicas)}
}

// runs reports whether there is a fill with a key.
func (t *Table) runs(key fillKey) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.fills[key] != nil
}

// fetch asks the replicas in turn. It returns nil if the source must be asked.
func (s *replicas) fetch(ctx context.Context, m *meter, offset, length int64) *Body {
	for replica := s.next(); replica != nil && ctx.Err() == nil; replica = s.next() {
		body, err := s.ask(ctx, replica, m, offset, length)
		if err == nil {
			return body
		}
		if ctx.Err() == nil {
			s.giveUp(replica, err)
		}
	}
	if s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.done = true
	}
	return nil
}

// next returns the first replica that is left, or nil.
func (s *replicas) next() Replica {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.left) == 0 {
		return nil
	}
	return s.left[0]
}

// giveUp makes the request do without a replica.
func (s *replicas) giveUp(replica Replica, err error) {
	s.mu.Lock()
	i := slices.Index(s.left, replica)
	if i >= 0 {
		s.left = slices.Delete(s.left, i, i+1)
	}
	s.mu.Unlock()
	if i >= 0 && !errors.Is(err, fs.ErrNotExist) {
		replica.Failed(s.digest, err)
	}
}

// ask returns a body of a replica that has exactly the requested range.
func (s *replicas) ask(ctx context.Context, replica Replica, m *meter, offset, length int64) (*Body, error) {
	part := s.limits.Stall / replicaShare
	end := s.size
	if length >= 0 {
		end = min(offset+length, s.size)
	}
	body, watched, err := watch(ctx, m, min(replicaPatience, part), func(ctx context.Context) (*Body, error) {
		return replica.Fetch(ctx, s.digest, offset, length)
	})
	if err != nil {
		return nil, err
	}
	if body.Size != s.size || body.Offset != offset || body.End != end && (body.End != 0 || end != s.size) {
		_ = watched.Close()
		return nil, fmt.Errorf("answered with bytes %d to %d of %d instead of %d to %d of %d", body.Offset, body.End, body.Size, offset, end, s.size)
	}
	watched.body = &replicaBody{ReadCloser: body.ReadCloser, left: end - offset, window: min(replicaWindow, s.limits.RateWindow/replicaShare)}
	watched.limit = min(replicaStall, part)
	watched.replicas, watched.replica = s, replica
	s.mu.Lock()
	if !slices.Contains(s.used, replica) {
		s.used = append(s.used, replica)
	}
	s.mu.Unlock()
	if length < 0 {
		end = 0
	}
	return &Body{ReadCloser: watched, Size: s.size, Offset: offset, End: end, Plain: true}, nil
}

// answered reports whether replicas have answered, and whether they are all that has been
// asked.
func (s *replicas) answered() (some, alone bool) {
	if s == nil {
		return false, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.used) > 0, len(s.used) > 0 && !s.done
}

// mismatched tells the replicas that have answered that the content does not match its
// digest, and reports whether there are any. The table asks no replica for it again.
func (s *replicas) mismatched(err error) bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	used := s.used
	s.used, s.left = nil, nil
	s.mu.Unlock()
	if len(used) > 0 {
		s.table.distrusted.Add(s.digest, struct{}{})
	}
	for _, replica := range used {
		replica.Failed(s.digest, err)
	}
	return len(used) > 0
}

// Copy returns content that is small enough for memory, of a known size in bytes, from
// the first of the replicas that has it. Limits are those of the source of the content.
// The error is [fs.ErrNotExist] if none has it, or the cause of ctx.
func (t *Table) Copy(ctx context.Context, d digest.Digest, size int64, from []Replica, limits SourceLimits) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	m := newMeter(&Request{Source: limits}, cancel, nil)
	s := t.replicasFor(&Request{Digest: d, Source: limits, Replicas: from}, size)
	for body := s.fetch(ctx, m, 0, -1); body != nil; body = s.fetch(ctx, m, 0, -1) {
		content := make([]byte, size)
		_, err := io.ReadFull(body, content)
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
