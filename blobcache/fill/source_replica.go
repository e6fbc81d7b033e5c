package fill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/opencontainers/go-digest"
)

const (
	// replicaPatience is how long a replica may take to answer, and replicaStall how
	// long its body may send nothing. Both are at most a quarter of
	// [SourceLimits.Stall], within which the source must have its turn too.
	replicaPatience = 2 * time.Second
	replicaStall    = 5 * time.Second
	replicaShare    = 4

	// A body of a replica must bring replicaMinRate bytes per second on average over
	// replicaWindow, or over a quarter of [SourceLimits.RateWindow] if that is shorter.
	// The time counts only while the transfer waits for the replica.
	replicaMinRate = 256 << 10
	replicaWindow  = 10 * time.Second

	// peerPatience and peerStall take the place of replicaPatience and replicaStall for
	// [Request.Peers], which may have to wait for the source themselves. The minimum rate
	// of a peer is that of the source, [SourceLimits.MinRate], whose bytes it passes on.
	peerPatience = 10 * time.Second
	peerStall    = 10 * time.Second
)

// replicaLimits are the limits of an answer of a replica.
type replicaLimits struct {
	patience, stall, window time.Duration
	least                   int64 // bytes per second
}

// ofReplica returns the limits of a replica, or of a peer, of a source with limits l.
func (l SourceLimits) ofReplica(peer bool) replicaLimits {
	part := l.Stall / replicaShare
	limits := replicaLimits{min(replicaPatience, part), min(replicaStall, part), min(replicaWindow, l.RateWindow/replicaShare), replicaMinRate}
	if peer {
		limits.patience, limits.stall, limits.least = min(peerPatience, part), min(peerStall, part), max(l.MinRate, 0)
	}
	return limits
}

// errReplica ends a body of a replica that is given up. The transfer goes on at once
// with the next one, or with the source.
var errReplica = errors.New("replica")

// Replica holds copies of content that sources have delivered before. Examples are a
// bucket that several processes share, and another process of a cluster. Transfers ask
// the replicas of a [Request] before its source. A replica is given up for the rest
// of a transfer as soon as it fails, does not have the content, or is too slow: if it
// does not answer within 2 seconds, sends nothing for 5, or sends less than 256 KiB/s
// over 10 seconds. The next replica, and at last the source, then continues at the byte
// where it has stopped.
//
// What a replica sends is not trusted: ranges of it are not handed out before the digest
// of the whole content is verified, except to a request that [Request.Verifies].
//
// A replica in [Request.Peers] may ask the source, so it has 10 seconds to answer and 10
// between bytes, and is given up below the minimum rate of the source only. It is
// asked for all that follows an offset, never for less.
//
// A Replica must be safe for concurrent use.
type Replica interface {
	// Fetch returns length bytes of the content from an offset on, or all that
	// follows if length is -1. Body.Offset must be the offset, and Body.Size the size
	// of the whole content. Body.End is the end of the range, and may be 0 if the
	// body goes on to the end of the content. ETag and Plain are not used.
	//
	// The error is [fs.ErrNotExist] if the replica does not have the content. While
	// a replica knows that it cannot be reached, Fetch should fail at once. When ctx
	// ends, Fetch must end, and so must later reads of its Body.
	Fetch(ctx context.Context, d digest.Digest, offset, length int64) (*Body, error)

	// Failed is called when the replica is given up for a transfer for another reason
	// than [fs.ErrNotExist]. The error is [context.DeadlineExceeded] or [ErrTooSlow] if it
	// was too slow, or what Fetch or a read of a Body has returned.
	//
	// The error is [ErrDigestMismatch] if the content of a transfer did not match its
	// digest and some of it came from the replica, which should then remove its copy.
	// The replicas are not asked for that content again by this process, as far as
	// it remembers.
	//
	// Failed must not block.
	Failed(d digest.Digest, err error)
}

// replicaBody is a body of a replica that ends where it has to, or fails.
type replicaBody struct {
	io.ReadCloser
	left   int64 // bytes that the body must still bring
	least  int64 // bytes per second, on average over the window
	window time.Duration
	waited time.Duration // in the current window
	got    int64         // bytes that came in the current window
}

// Read implements io.Reader.
func (b *replicaBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	began := time.Now()
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	b.got += int64(n)
	b.waited += time.Since(began)
	switch {
	case b.left == 0:
		return n, nil // however it ends; the digest decides
	case err == io.EOF:
		return n, fmt.Errorf("%d bytes are missing: %w", b.left, io.ErrUnexpectedEOF)
	case err != nil:
		return n, err
	case b.waited >= b.window:
		if float64(b.got) < float64(b.least)*b.waited.Seconds() {
			return n, fmt.Errorf("%d bytes in %v: %w", b.got, b.waited.Round(time.Millisecond), ErrTooSlow)
		}
		b.waited, b.got = 0, 0
	}
	return n, nil
}
