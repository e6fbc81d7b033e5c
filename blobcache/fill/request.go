package fill

import (
	"errors"

	"github.com/opencontainers/go-digest"
)

// ErrDigestMismatch means that a source sent content with another digest than
// the requested one. It is not stored, and its last byte is not delivered.
var ErrDigestMismatch = errors.New("content does not match its digest")

// ErrSizeMismatch means that content has another size than its request expected and
// its reader announced, because the source told none. It is stored if its digest
// matches.
var ErrSizeMismatch = errors.New("content does not have the expected size")

// ErrCircular means that a request of a peer asks for content that is awaited from that
// peer, or from another one that may wait for it; see [Request.Circular].
var ErrCircular = errors.New("the content is awaited from the peer that asks for it")

// Origin says where the content of an answer comes from.
type Origin int

const (
	// Hit means that the content was stored.
	Hit Origin = iota
	// Joined means that another request's fill is downloading the content.
	Joined
	// Started means that this request asked the source for the content.
	Started
)

// Request asks for content.
type Request struct {
	Digest digest.Digest

	// Size is the size in bytes, or -1 if it is not known. Stored content of
	// another size is removed and downloaded again, unless its digest matches.
	Size int64

	// SizeHint is the size in bytes that someone else claims, or 0. It decides
	// nothing but whether ranges are worth asking for and, if the source tells no
	// size either, what a reader of this request announces; see [Follower.Size].
	SizeHint int64

	// Limit is the size in bytes above which the content is passed on without
	// being stored. Zero means no limit.
	Limit int64

	// Endpoint names the endpoint that Fetch asks. Running fills are shared
	// only between requests of the same endpoint.
	Endpoint string

	// Scope names the authority that Fetch asks with. A request shares the
	// failure of another request's fill only within a scope; in another scope
	// it asks the source itself.
	Scope string

	// Claim, if not nil, decides which content the scope may have that the
	// request does not fetch itself. Without a Claim it may have all.
	Claim Claim

	// Source bounds the transfers from the endpoint, for all scopes together.
	Source SourceLimits

	// Group is the group that a fill started by this request counts for, in
	// number and in reserved room. It may be empty.
	Group string

	// Reserve, if not nil, is called with the number of bytes of room that a
	// fill started by this request is about to take, and with a negative number
	// when it gives them back, also those of content that has been stored. If
	// Reserve returns false, the fill takes no room and its content is passed
	// on without being stored.
	Reserve func(bytes int64) (ok bool)

	Fetch Fetch

	// Peers are asked before Replicas and Fetch, in order. They vouch for the scope: a
	// peer sends content only if the source has confirmed it for the scope, now or before.
	// So they are asked even if nothing is known of the content, and what they send counts,
	// once it is verified, as delivered by the source to the scope.
	Peers []Replica

	// Replicas are asked before Fetch, in order, for content to which the scope is
	// linked, or which its source has delivered to others and confirms for the
	// scope. The size of such content is known.
	Replicas []Replica
	replicas *replicas // that may be asked, nil without any

	// Verifies is set if the reader verifies the digest of the whole content itself. It
	// may then read ranges of unverified content, whoever has sent it.
	Verifies bool

	// Circular is set for the request of a peer. It reports whether the request must not
	// follow a fill that waits for bytes of another peer, because that peer may in turn
	// wait for the request. The error is then [ErrCircular]. A read may return it in the
	// middle of the content if the fill gives up one peer and goes on to another. Answered
	// is set if the peer has begun to send the content.
	Circular func(peer Replica, answered bool) bool

	// Fetched, if not nil, is called with the number of bytes of each read from
	// the source, but not from Peers and Replicas, also of those that are not stored
	// in the end. It must not block.
	Fetched func(n int)

	// Connections is the number of ranges of large content that may be fetched
	// at once. Below 2, and for content that is expected to fit the first range,
	// the source is asked for ranges only to resume.
	Connections int

	// Stored, if not nil, is called when a fill started by this request has
	// been stored.
	Stored func(size int64)
}

// expected returns the size in bytes that is to be expected before the source has
// answered, or -1.
func (r *Request) expected() int64 {
	if r.Size < 0 && r.SizeHint > 0 {
		return r.SizeHint
	}
	return r.Size
}

// shared returns the key of the fill that the request shares with others.
func (r *Request) shared() fillKey { return fillKey{endpoint: r.Endpoint, digest: r.Digest} }
