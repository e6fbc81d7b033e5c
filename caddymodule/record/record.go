// Package record describes the requests that a site has answered. The handler fills
// one [Request] while it answers, and shows it once, at the end, to all that count,
// log or display requests. These should add what they need here rather than observe
// requests themselves.
package record

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
)

// Request is the record of one request. Texts are empty, and numbers 0, where they
// are not known: a request that is refused early has no upstream.
type Request struct {
	Kind   Kind
	Result Result
	Source Source // where the body of a manifest or a blob was read from
	Head   bool   // the client asks for the header only

	// Group and Image are the parts of the path, Upstream and Repository the names
	// to which they lead. Tag is that of a manifest that is requested by its tag.
	// Digest is that of the content, or the subject of referrers.
	Group, Image         string
	Upstream, Repository string
	Tag                  string
	Digest               digest.Digest

	// Scope is that of the repository in the index of the cache.
	Scope string

	// Account and Directory name the account, and AccessToken is the ID of the access
	// token that it has used. Anonymous reports that the client needs no account.
	Account, Directory string
	AccessToken        string
	Address            string // of the client, as Caddy has determined it
	Anonymous          bool

	// Rule is the rule by which the client may or may not pull, as in the audit log.
	// Denial is the reason if it may not: one of a few texts that name neither
	// accounts nor groups nor images.
	Rule, Denial string

	Start     time.Time
	FirstByte time.Duration // from Start to the header of the response; 0 without one
	Duration  time.Duration // from Start to the end
	Status    int           // of the response; 0 without one
	Bytes     int64         // of the body, as far as it was sent; all of it after a redirect

	writer writer
	ended  uint32 // 1 if the record is complete; atomic
}

// End completes the record at the end of the request. If the response was aborted, or
// the client has closed the connection meanwhile, that is the result.
func (r *Request) End(ctx context.Context, aborted bool) {
	r.Duration = time.Since(r.Start)
	switch {
	case r.writer.broken || aborted && ctx.Err() != nil:
		r.Result = Canceled
	case aborted:
		r.Result = Error
	}
	atomic.StoreUint32(&r.ended, 1)
}

// Consumer reads the record of a request that has ended. It must return quickly, must
// not keep the pointer, and may be called concurrently.
type Consumer func(*Request)

// Kind is what a request asks for.
type Kind uint8

// Other is a page, the health of the site, or a path that does not exist.
const (
	Other Kind = iota
	Manifest
	Blob
	Tags
	Referrers
	Token // from the token service
	Ping  // the version check, GET /v2/

	// The content that another node asks for on behalf of a client, whose request that
	// node records. Consumers that count the pulls of clients ignore these kinds.
	PeerManifest
	PeerBlob
)

var kinds = [...]string{Other: "other", Manifest: "manifest", Blob: "blob", Tags: "tags", Referrers: "referrers", Token: "token", Ping: "ping",
	PeerManifest: "peer manifest", PeerBlob: "peer blob"}

// String returns the name of the kind in metrics and logs.
func (k Kind) String() string { return kinds[k] }

// ForPeer reports whether the request is that of another node.
func (k Kind) ForPeer() bool { return k == PeerManifest || k == PeerBlob }

// Result is how a request has ended.
type Result uint8

// From Hit to Stale they are those of content.
const (
	None         Result = iota // nothing is known, as for a page
	Hit                        // from the cache
	Miss                       // upstream was asked
	Joined                     // from a download that another request has started
	Revalidated                // upstream was asked again, and has answered
	Stale                      // from the cache, since upstream could not be asked again
	OK                         // a token or a version check
	Denied                     // the client may not do this
	Unauthorized               // the client must log in
	Throttled                  // too many failed logins
	Absent                     // it does not exist, or upstream hides it
	RateLimited                // by upstream
	Unavailable                // upstream or a directory cannot answer
	Offline                    // it is not cached, and upstream must not be asked
	Error                      // the request is invalid, or the response was aborted
	Canceled                   // the client has closed the connection
)

var results = [...]string{None: "none", Hit: "hit", Miss: "miss", Joined: "joined", Revalidated: "revalidated", Stale: "stale", OK: "ok",
	Denied: "denied", Unauthorized: "unauthorized", Throttled: "throttled", Absent: "absent", RateLimited: "rate_limited",
	Unavailable: "unavailable", Offline: "offline", Error: "error", Canceled: "canceled"}

// String returns the name of the result in metrics and logs.
func (r Result) String() string { return results[r] }

// Source is where the body of a response was read from.
type Source uint8

// Nowhere is the source of a response without a body that is cached.
const (
	Nowhere  Source = iota
	Cache           // the storage
	Upstream        // a download, possibly one that another request has started
	Replica         // a download of which all has come from a copy in the cluster
	Peer            // a download of which all has come from the cluster, and some from another node
	Redirect        // an object store, to which the client was sent
)

var sources = [...]string{Nowhere: "none", Cache: "cache", Upstream: "upstream", Replica: "replica", Peer: "peer", Redirect: "redirect"}

// String returns the name of the source in metrics and logs.
func (s Source) String() string { return sources[s] }
