package fill

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
)

// replicas are the peers and replicas of one request. A nil value has none.
type replicas struct {
	table  *Table
	digest digest.Digest
	claim  Claim
	limits SourceLimits
	proved sync.Mutex // held while the claim is asked to confirm

	mu     sync.Mutex
	size   int64     // in bytes, or -1
	told   bool      // a peer or a manifest has told the size, which may be wrong
	linked bool      // the scope may have the content, so replicas other than peers may be asked
	left   []Replica // that are not given up, in order; peers come first
	peers  int       // the number of peers in left
	used   []Replica // that have answered
	peer   bool      // a peer is among used
	done   bool      // the source has been asked

	followers []follower // whose requests have not ended, as far as is known
}

// withReplicas returns the peers and replicas that may be asked for a request. Replicas may
// be if the scope is linked to the content, or if its source has delivered the content to
// others and share lets the source confirm it for the scope.
func (t *Table) withReplicas(req *Request, standing Standing, share sharing) *replicas {
	size := int64(-1)
	if standing.Linked || standing.Delivered {
		size = standing.Size
	}
	s := t.replicasFor(req, size)
	if s == nil {
		return nil
	}
	if s.linked = standing.Linked; !s.linked && (!standing.Delivered || share == never) {
		s.left = s.left[:s.peers]
	}
	if len(s.left) == 0 {
		return nil
	}
	return s
}

// replicasFor returns the peers and replicas of a request for content of a size, which is
// -1 if it is not known, or nil without any. Empty content is not worth asking them.
func (t *Table) replicasFor(req *Request, size int64) *replicas {
	left := slices.Clone(req.Peers)
	if size > 0 {
		left = append(left, req.Replicas...)
	}
	if len(left) == 0 || size == 0 || t.distrusted.Contains(req.Digest) {
		return nil
	}
	s := &replicas{table: t, digest: req.Digest, claim: req.Claim, size: size, limits: req.Source.withDefaults(), left: left, peers: len(req.Peers)}
	if size < 0 && req.SizeHint > 0 {
		s.size, s.told = req.SizeHint, true
	}
	return s
}

// fetch asks the peers and replicas in turn. It returns nil if the source must be asked.
// The error is that of the source, which does not confirm the content for the scope.
func (s *replicas) fetch(ctx context.Context, m *meter, offset, length int64) (*Body, error) {
	for replica, peer := s.next(); replica != nil && ctx.Err() == nil; replica, peer = s.next() {
		if !peer {
			switch err := s.prove(ctx); {
			case errors.Is(err, ErrUnconfirmed):
				s.drop()
				continue
			case err != nil:
				return nil, err
			}
		}
		body, err := s.ask(ctx, replica, peer, m, offset, length)
		if err == nil {
			return body, nil
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
	return nil, nil
}

// next returns the first one that is left, or nil, and whether it is a peer.
func (s *replicas) next() (replica Replica, peer bool) {
	if s == nil {
		return nil, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.left) == 0 {
		return nil, false
	}
	return s.left[0], s.peers > 0
}

// prove asks the source to confirm the content for the scope, unless that is known.
func (s *replicas) prove(ctx context.Context) error {
	s.proved.Lock()
	defer s.proved.Unlock()
	s.mu.Lock()
	linked, size := s.linked, s.size
	s.mu.Unlock()
	if linked {
		return nil
	}
	if err := s.claim.Confirm(ctx, size); err != nil {
		return err
	}
	s.claim.Delivered(size)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.linked = true
	return nil
}

// drop gives up all peers and replicas.
func (s *replicas) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left, s.peers = nil, 0
}

// giveUp gives up one replica for the rest of the transfer, and tells it why.
func (s *replicas) giveUp(replica Replica, err error) {
	s.mu.Lock()
	i := slices.Index(s.left, replica)
	if i >= 0 {
		s.left = slices.Delete(s.left, i, i+1)
	}
	if i >= 0 && i < s.peers {
		s.peers--
	}
	s.mu.Unlock()
	s.endCircular()
	if i >= 0 && !errors.Is(err, fs.ErrNotExist) {
		replica.Failed(s.digest, err)
	}
}

// ask returns a body of a replica that has exactly the requested range, or of a peer that
// has all that follows the offset.
func (s *replicas) ask(ctx context.Context, replica Replica, peer bool, m *meter, offset, length int64) (*Body, error) {
	limits := s.limits.ofReplica(peer)
	if peer {
		length = -1 // it may have to wait for a range that its source sends late
	}
	body, watched, err := watch(ctx, m, limits.patience, func(ctx context.Context) (*Body, error) {
		return replica.Fetch(ctx, s.digest, offset, length)
	})
	if err != nil {
		return nil, err
	}
	size, err := s.admit(replica, peer, body, offset, length)
	if err != nil {
		_ = watched.Close()
		return nil, err
	}
	end := size
	if length >= 0 {
		end = min(offset+length, size)
	}
	watched.body = &replicaBody{ReadCloser: body.ReadCloser, left: end - offset, least: limits.least, window: limits.window}
	watched.limit = limits.stall
	watched.replicas, watched.replica = s, replica
	if length < 0 {
		end = 0
	}
	return &Body{ReadCloser: watched, Size: size, Offset: offset, End: end, Plain: true}, nil
}

// admit returns the size of the content, or an error unless the body of a replica is the
// requested range of it.
func (s *replicas) admit(replica Replica, peer bool, body *Body, offset, length int64) (size int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if size = s.size; size < 0 {
		size = body.Size
	}
	end := size
	if length >= 0 {
		end = min(offset+length, size)
	}
	if size < 0 || body.Size != size || body.Offset != offset || offset > size || body.End != end && (body.End != 0 || end != size) {
		err = fmt.Errorf("answered with bytes %d to %d of %d instead of %d to %d of %d", body.Offset, body.End, body.Size, offset, end, size)
		if s.told && body.Size != size {
			err = fmt.Errorf("%w: %w", err, fs.ErrNotExist) // a manifest, or another peer, may be wrong
		}
		return 0, err
	}
	s.told, s.peer = s.told || s.size < 0, s.peer || peer
	if s.size = size; !slices.Contains(s.used, replica) {
		s.used = append(s.used, replica)
	}
	return size, nil
}

// misled reports whether the size is known from a peer alone, and may be wrong.
func (s *replicas) misled() bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.told && len(s.used) > 0
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

// ofPeer reports whether a peer has answered.
func (s *replicas) ofPeer() bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.peer
}

// mismatched tells the replicas that have answered that the content does not match its
// digest, and reports whether there are any. The table asks no replica for it again.
func (s *replicas) mismatched(err error) bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	used := s.used
	s.used, s.left, s.peers = nil, nil, 0
	s.mu.Unlock()
	if len(used) > 0 {
		s.table.distrusted.Add(s.digest, struct{}{})
	}
	for _, replica := range used {
		replica.Failed(s.digest, err)
	}
	return len(used) > 0
}
