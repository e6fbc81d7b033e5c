package pullthrough

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// Blob returns a blob's content, from the cache or while it is being downloaded.
// The caller must close the reader. An error is upstream's, an
// [*upstream.Error], or one of [blobcache.Cache.Get].
func (r *Repository) Blob(ctx context.Context, d digest.Digest) (*blobcache.Reader, Status, error) {
	c := &r.config
	claim := r.claim(d)
	ctx, answered := r.watchBlob(ctx, d)
	defer answered()
	reader, origin, err := c.Cache.Get(ctx, fill.Request{
		Digest:   d,
		Size:     -1,
		SizeHint: c.Sizes.of(c.Scope, d),
		Limit:    c.Quotas.Limit(c.Scope),
		Endpoint: c.Endpoint,
		Scope:    r.since(claim.purged),
		Claim:    claim,
		Fetch:    r.fetchBlob(d),
		Fetched:  r.fetchedBytes,
		Peers:    r.blobPeers(d),
		Replicas: c.Replicas,
		Verifies: c.OfPeer != nil,
		Circular: c.OfPeer,

		Source:      c.Downloads,
		Group:       c.Group,
		Reserve:     func(bytes int64) bool { return c.Quotas.Reserve(c.Scope, bytes) },
		Connections: c.Connections,
		Stored:      func(size int64) { c.Quotas.Added(c.Scope, size) },
	})
	if err != nil {
		return nil, Miss, err
	}
	c.Quotas.Used(c.Scope, d, false)
	switch {
	case !claim.asked.Load() && (origin == fill.Hit || reader.FromReplica() && !reader.FromPeer()):
		return reader, Hit, nil
	case origin == fill.Joined:
		return reader, Joined, nil
	}
	return reader, Miss, nil
}

// WarmBlob returns the size of a blob that the repository may serve without asking
// upstream, wherever its content is stored, and counts it as used. It reports false also
// while the blob is being downloaded.
func (r *Repository) WarmBlob(ctx context.Context, d digest.Digest) (size int64, ok bool) {
	c := &r.config
	link, err := c.Index.Link(ctx, c.Scope, d)
	if err != nil || c.Cache.Filling(d) {
		return 0, false
	}
	c.Cache.Used(d)
	c.Quotas.Used(c.Scope, d, false)
	return link.Size, true
}

func (r *Repository) watchBlob(ctx context.Context, d digest.Digest) (_ context.Context, answered func()) {
	return watchLoop(ctx, r, "blob "+d.String(), func(ctx context.Context) (int64, error) {
		return r.config.Registry.StatBlob(ctx, r.config.Name, d, -1)
	})
}

func (r *Repository) fetchBlob(d digest.Digest) fill.Fetch {
	return func(ctx context.Context, offset, length int64, etag string) (*fill.Body, error) {
		body, err := r.config.Registry.Blob(ctx, r.config.Name, d, offset, length, etag)
		if err != nil {
			return nil, err
		}
		return &fill.Body{
			ReadCloser: body.ReadCloser, Size: body.Size, Offset: body.Offset, End: body.End, ETag: body.ETag, Plain: body.Plain,
		}, nil
	}
}

// StatBlob returns the size in bytes of a blob that the repository contains. What
// upstream says about a blob that it has not delivered is passed on and not
// recorded. If upstream has the blob and does not tell its size, the size is the one
// that a manifest of the repository tells. Without one, or if upstream answers only
// over plain HTTP, the blob is downloaded; the size is -1 if it cannot be stored
// either. Errors are those of [Repository.Blob].
func (r *Repository) StatBlob(ctx context.Context, d digest.Digest) (size int64, status Status, err error) {
	ctx, answered := r.watchBlob(ctx, d)
	defer answered()
	claim := r.claim(d)
	standing := claim.Standing(ctx)
	if standing.Linked {
		return standing.Size, Hit, nil
	}
	if standing.Delivered {
		size = standing.Size
		if err = claim.Confirm(ctx, size); err == nil {
			claim.Delivered(size)
		}
	} else if size, err = claim.ask(ctx, -1); err == nil && size < 0 {
		if told := r.config.Sizes.of(r.config.Scope, d); told > 0 {
			size = told
		}
	}
	if errors.Is(err, fill.ErrUnconfirmed) || err == nil && size < 0 {
		return r.fetchSize(ctx, d)
	}
	return size, Miss, err
}

// fetchSize downloads a blob to learn its size, and waits until it is complete.
func (r *Repository) fetchSize(ctx context.Context, d digest.Digest) (size int64, status Status, err error) {
	reader, status, err := r.Blob(ctx, d)
	if err != nil {
		return 0, Miss, err
	}
	defer reader.Close()
	if err := reader.AwaitWhole(ctx); err != nil {
		return 0, Miss, err
	}
	return reader.Size(), status, nil
}

// blobClaim decides whether a repository may have a stored blob: upstream must
// have delivered the blob to it, or have delivered it to another repository and
// confirm that this one contains it. Otherwise the blob is downloaded. It
// implements [fill.Claim].
type blobClaim struct {
	repository *Repository
	digest     digest.Digest
	purged     time.Time   // when the repository was purged before the request
	asked      atomic.Bool // whether Confirm was called
	unsized    atomic.Bool // whether Confirm succeeded without a size
}

func (r *Repository) claim(d digest.Digest) *blobClaim {
	return &blobClaim{repository: r, digest: d, purged: r.purgedAt()}
}

// Standing implements [fill.Claim]. The size is -1 if it is not known.
func (c *blobClaim) Standing(ctx context.Context) fill.Standing {
	config := &c.repository.config
	if link, err := config.Index.Link(ctx, config.Scope, c.digest); err == nil {
		return fill.Standing{Linked: true, Size: link.Size, Delivered: true}
	}
	if delivery, err := config.Index.Delivery(ctx, config.Scope, c.digest); err == nil {
		return fill.Standing{Size: delivery.Size, Delivered: true}
	}
	return fill.Standing{Size: -1}
}

// Confirm implements [fill.Claim].
func (c *blobClaim) Confirm(ctx context.Context, size int64) error {
	c.asked.Store(true)
	size, err := c.ask(ctx, size)
	if err == nil && size < 0 {
		c.unsized.Store(true)
		return nil // Delivered learns it
	}
	if err == nil {
		c.repository.config.Quotas.Added(c.repository.config.Scope, size)
	}
	return err
}

// ask returns the size that a peer or upstream tells, or -1 if upstream tells none. The size
// must be equal to known unless known is -1.
func (c *blobClaim) ask(ctx context.Context, known int64) (int64, error) {
	r := c.repository
	question := fmt.Sprintf("blob %s %d", c.digest, known)
	return oncePeers(ctx, r, question, func(ctx context.Context) (int64, error) {
		return r.sizeOfPeer(ctx, c.digest, known)
	}, func(ctx context.Context) (int64, error) {
		size, err := inTurn(ctx, r, func() (int64, error) {
			return r.config.Registry.StatBlob(ctx, r.config.Name, c.digest, known)
		})
		if errors.Is(err, upstream.ErrPlainHTTP) {
			err = fmt.Errorf("%w: %w", fill.ErrUnconfirmed, err)
		}
		return size, err
	})
}

// Delivered implements [fill.Claim]. The request that the claim is for may
// have ended by then.
func (c *blobClaim) Delivered(size int64) {
	ctx, cancel := context.WithTimeout(askedSince(context.Background(), c.purged), metadataLimit)
	defer cancel()
	c.repository.recordDelivery(ctx, c.digest, index.Link{Size: size})
	if c.unsized.Load() {
		c.repository.config.Quotas.Added(c.repository.config.Scope, size)
	}
}
