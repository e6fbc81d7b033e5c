package caddymodule

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

func (ex *exchange) serveBlob(p *repository) *apiError {
	d := ex.route.digest
	if !ex.wantsBody() {
		size, status, err := p.statBlob(ex.r.Context(), d)
		if err != nil {
			return ex.fromUpstream(p, err, blobUnknown, unavailable)
		}
		ex.sendBlobHead(d, size, status)
		return nil
	}
	r, status, err := p.blob(ex.r.Context(), d)
	if err != nil {
		return ex.fromUpstream(p, err, blobUnknown, unavailable)
	}
	defer r.Close()
	ex.sendBlob(d, r, status)
	return nil
}

// statBlob returns a blob's size if this repository has it. What upstream says of
// a blob that it has not delivered is passed on, and not remembered. If upstream
// tells no size, or only over plain HTTP, the blob is fetched; the size is -1 if
// it cannot be stored either.
func (p *repository) statBlob(ctx context.Context, d digest.Digest) (size int64, status []string, err error) {
	c := &blobClaim{repository: p, digest: d}
	standing := c.Standing(ctx)
	if standing.Linked {
		return standing.Size, statusHit, nil
	}
	if standing.Delivered {
		if err = c.Confirm(ctx, standing.Size); err == nil {
			c.Delivered(standing.Size)
			return standing.Size, statusMiss, nil
		}
	} else {
		size, err = c.ask(ctx, -1)
	}
	if errors.Is(err, fill.ErrUnconfirmed) || err == nil && size < 0 {
		return p.fetchSize(ctx, d)
	}
	return size, statusMiss, err
}

// fetchSize fetches a blob to find out its size, and waits until it is whole.
func (p *repository) fetchSize(ctx context.Context, d digest.Digest) (size int64, status []string, err error) {
	r, status, err := p.blob(ctx, d)
	if err != nil {
		return 0, nil, err
	}
	defer r.Close()
	if err := r.AwaitWhole(ctx); err != nil {
		return 0, nil, err
	}
	return r.Size(), status, nil
}

// blob returns a blob's bytes, from the cache or as they come.
func (p *repository) blob(ctx context.Context, d digest.Digest) (*blobcache.Reader, []string, error) {
	c := &blobClaim{repository: p, digest: d}
	r, origin, err := p.cache.Get(ctx, fill.Request{
		Digest:   d,
		Size:     -1,
		Limit:    p.quotas.Limit(p.scope),
		Endpoint: p.endpoint,
		Scope:    p.scope,
		Claim:    c,
		Fetch:    p.fetchBlob(d),

		Source:      p.limits,
		Group:       p.share,
		Reserve:     func(bytes int64) bool { return p.quotas.Reserve(p.scope, bytes) },
		Connections: p.connections,
		Stored:      func(size int64) { p.quotas.Added(p.scope, size) },
	})
	if err != nil {
		return nil, nil, err
	}
	p.quotas.Used(p.scope, d, false)
	switch {
	case origin == fill.Joined:
		return r, statusJoined, nil
	case origin == fill.Hit && !c.asked:
		return r, statusHit, nil
	}
	return r, statusMiss, nil
}

func (p *repository) fetchBlob(d digest.Digest) fill.Fetch {
	return func(ctx context.Context, offset, length int64, etag string) (*fill.Body, error) {
		body, err := p.registry.Blob(ctx, p.name, d, offset, length, etag)
		if err != nil {
			return nil, err
		}
		return &fill.Body{
			ReadCloser: body.ReadCloser, Size: body.Size, Offset: body.Offset, End: body.End, ETag: body.ETag, Plain: body.Plain,
		}, nil
	}
}

// blobClaim decides whether a repository may have a blob. A stored blob is not
// automatically this repository's: unless upstream has confirmed it, upstream is asked,
// and unless upstream has delivered it, to this repository or to another one, it is
// fetched.
type blobClaim struct {
	*repository
	digest digest.Digest
	asked  bool // upstream was, for the request that the claim is of
}

// Standing implements [blobcache.Claim]. The size is -1 if it is not known.
func (c *blobClaim) Standing(ctx context.Context) fill.Standing {
	if link, err := c.index.Link(ctx, c.scope, c.digest); err == nil {
		return fill.Standing{Linked: true, Size: link.Size, Delivered: true}
	}
	if delivery, err := c.index.Delivery(ctx, c.scope, c.digest); err == nil {
		return fill.Standing{Size: delivery.Size, Delivered: true}
	}
	return fill.Standing{Size: -1}
}

// Confirm implements [blobcache.Claim].
func (c *blobClaim) Confirm(ctx context.Context, size int64) error {
	c.asked = true
	size, err := c.ask(ctx, size)
	if err == nil {
		c.quotas.Added(c.scope, size)
	}
	return err
}

// ask returns the size that upstream tells, which must be the known one if there
// is one.
func (c *blobClaim) ask(ctx context.Context, known int64) (int64, error) {
	what := fmt.Sprintf("blob %s %d", c.digest, known)
	return once(ctx, c.repository, what, func(ctx context.Context) (int64, error) {
		size, err := askOf(ctx, c.repository, func() (int64, error) {
			return c.registry.StatBlob(ctx, c.name, c.digest, known)
		})
		if errors.Is(err, upstream.ErrPlainHTTP) {
			err = fmt.Errorf("%w: %w", fill.ErrUnconfirmed, err)
		}
		return size, err
	})
}

// Delivered implements [blobcache.Claim].
func (c *blobClaim) Delivered(size int64) {
	ctx, cancel := context.WithTimeout(context.Background(), metadataLimit)
	defer cancel()
	c.delivered(ctx, c.digest, index.Link{Size: size})
}
