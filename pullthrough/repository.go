package pullthrough

import (
	"context"
	"fmt"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/mediatype"
	"github.com/opencontainers/go-digest"
)

// Config says what a repository is and what it is served from. Unless noted
// otherwise, all fields are required.
type Config struct {
	// Cache holds content by digest, Index what each repository is known to
	// contain, and Quotas what each group may keep of it.
	Cache  *blobcache.Cache
	Index  *index.Index
	Quotas *blobcache.Quotas

	// Lists, Questions and Flights are common to all repositories that are
	// served from Cache. Two repositories with the same Scope must not share
	// Flights if their Registry differs.
	Lists     *Lists
	Questions *Questions
	Flights   *Flights

	// Sizes is common to all repositories that are served from Cache, too. It is
	// optional.
	Sizes *Sizes

	// Absences is common to all repositories of the process. It is optional.
	Absences *Absences

	// Registry is the upstream, asked with one login.
	Registry *upstream.Mirrors

	// Peers, if not nil, returns other processes of a cluster, which are asked before
	// Replicas and Registry, in this order, about what key names: content, or a tag. It
	// must not block. Peers are asked about content although Registry is offline.
	Peers func(key string) []Peer

	// OfPeer is set for the requests of a peer. Peers are not asked for them, and the
	// sender verifies the content itself. OfPeer reports whether such a request must not
	// wait for what another peer was asked for; see [fill.Request.Circular] and [Circular].
	OfPeer func(peer fill.Replica, answered bool) bool

	// Replicas are asked before Registry for the content of manifests and blobs
	// that Endpoint has delivered before. They do not count as upstream: the bytes are
	// not reported to Hooks.Fetched, and they are asked although upstream fails,
	// limits pulls or is offline. They are optional.
	Replicas []fill.Replica

	// Name is the repository's name at the registry, as in library/alpine.
	Name string

	// Scope names the repository, its source and the group in Index; see
	// [index.Index] for its form.
	Scope string

	// Endpoint identifies where downloads come from. Repositories of one
	// endpoint share downloads in progress.
	Endpoint string

	// Group is the group that downloads and questions count for.
	Group string

	// Accept is the set of media types that the client accepts for a manifest.
	// The zero value accepts any.
	Accept mediatype.Accept

	// FreshFor is how long a tag is served from Index without asking upstream.
	FreshFor time.Duration

	// Forced asks upstream about a tag although it is fresh, and waits for the
	// answer without regard to Patience and, unless few pulls are left, to the
	// pause after a failure. There is still a stale answer if upstream fails.
	// Forced requests for a tag share one question at a time, and a second passes
	// before the next one.
	Forced bool

	// Patience is how long a request for which there is a stale answer waits for
	// a fresh one. The question goes on when it has passed.
	Patience time.Duration

	// StaleFor is the age up to which a tag or a list is served that is not
	// fresh, because upstream does not answer in time, fails, denies access to
	// it or has deleted it. The age counts from when upstream last confirmed it.
	// Past it, requests wait for upstream, and get its error. There are no stale
	// answers if it is 0, and there is no limit if it is [Forever].
	StaleFor time.Duration

	// AbsentFor is how long Absences answers for upstream that a tag or a repository
	// does not exist. If it is 0, upstream is asked each time.
	AbsentFor time.Duration

	// Connections is how many ranges of a blob are fetched at once.
	Connections int

	// Downloads limits the downloads from Endpoint; its zero fields mean the
	// defaults of [fill.SourceLimits].
	Downloads fill.SourceLimits

	// Hooks are optional.
	Hooks Hooks
}

// Hooks report problems that do not fail a pull. Each may be nil.
type Hooks struct {
	// Stale is called when upstream does not confirm a tag and the last known
	// answer is served; [ReasonOf] returns the reason. It is not called during
	// the pause after such a failure, in which upstream is not asked.
	Stale func(scope, tag string, err error)

	// Fetched is called with the number of bytes of content that have come from
	// upstream for a repository. It may be called after the request that has
	// asked for the content, and must not block.
	Fetched func(scope string, n int)

	// Moved is called when upstream has named another digest for a tag than the
	// one that was served until now, and its content is stored. If another process has
	// asked upstream, it reports that itself. Moved is then called only if that process
	// says that it did not know the tag before.
	Moved func(scope, tag string, from, to index.Ref)

	// RecordFailed is called when the index cannot write a record. The index
	// keeps it in memory.
	RecordFailed func(scope string, err error)
}

// Repository is one repository of an upstream as one group sees it. It is safe
// for concurrent use, and holds nothing that must be closed.
type Repository struct{ config Config }

// New returns a repository.
func New(config Config) *Repository { return &Repository{config} }

// Status says where an answer comes from.
type Status int

const (
	Hit         Status = iota // from the cache, or a replica
	Miss                      // upstream was asked, or a peer
	Joined                    // from a download that another request has started
	Revalidated               // upstream, or a peer, was asked again, and has answered
	Stale                     // from the cache, since upstream has not confirmed it again; see Reason
)

// recordDelivery records that upstream has delivered content and, unless it was purged
// meanwhile, that the repository contains it. A failed write does not fail the pull.
func (r *Repository) recordDelivery(ctx context.Context, d digest.Digest, link index.Link) {
	var err error
	if r.isPurged(ctx) {
		err = r.config.Index.NoteDelivery(ctx, r.config.Scope, d, link.Size)
	} else {
		err = r.config.Index.AddDelivery(ctx, r.config.Scope, d, link)
	}
	if err != nil {
		r.recordFailed(fmt.Errorf("recording the content %s: %w", d, err))
	}
}

// recordRef records what a tag stands for, unless it was purged meanwhile. A failed write
// does not fail the pull.
func (r *Repository) recordRef(ctx context.Context, tag string, ref index.Ref) {
	if r.isPurged(ctx) {
		return
	}
	if err := r.config.Index.SetRef(ctx, r.config.Scope, tag, ref); err != nil {
		r.recordFailed(fmt.Errorf("recording the tag %s: %w", tag, err))
	}
}

func (r *Repository) fetchedBytes(n int) {
	if report := r.config.Hooks.Fetched; report != nil {
		report(r.config.Scope, n)
	}
}

// recordMoved records what a tag stands for, and reports that it has moved if this process
// has learned that from upstream.
func (r *Repository) recordMoved(ctx context.Context, tag choice, old *index.Ref, ref index.Ref) {
	r.recordRef(ctx, tag.name(), ref)
	if !ref.Learned {
		r.reportMoved(tag, old, ref)
	}
}

// reportMoved reports that a tag has moved if old is not nil and has another digest.
func (r *Repository) reportMoved(tag choice, old *index.Ref, ref index.Ref) {
	if report := r.config.Hooks.Moved; report != nil && old != nil && old.Digest != ref.Digest {
		report(r.config.Scope, tag.tag, *old, ref)
	}
}

func (r *Repository) recordFailed(err error) {
	if report := r.config.Hooks.RecordFailed; report != nil {
		report(r.config.Scope, err)
	}
}
