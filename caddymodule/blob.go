package caddymodule

import (
	"context"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
)

func (ex *exchange) serveBlob(p *repository) *apiError {
	d := ex.route.digest
	if !ex.wantsBody() {
		size, status, err := p.statBlob(ex.r.Context(), d)
		if err == nil && size < 0 {
			size, status, err = p.weighBlob(ex.r.Context(), d)
		}
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

// statBlob returns a blob's size if this repository has it, -1 if upstream tells
// none.
func (p *repository) statBlob(ctx context.Context, d digest.Digest) (size int64, status []string, err error) {
	if link, err := p.index.Link(ctx, p.scope, d); err == nil && link.Size >= 0 {
		return link.Size, statusHit, nil
	}
	size, err = once(ctx, p, "blob "+d.String(), func(ctx context.Context) (int64, error) {
		size, err := p.registry.StatBlob(ctx, p.name, d)
		if err == nil {
			p.link(ctx, d, blobcache.Link{Size: size})
			p.quotas.Added(p.scope, size)
		}
		return size, err
	})
	return size, statusMiss, err
}

// weighBlob finds out the size of a blob of which upstream tells none: it is
// brought here, since nobody else can tell. It is -1 if it cannot be kept here
// either.
func (p *repository) weighBlob(ctx context.Context, d digest.Digest) (size int64, status []string, err error) {
	r, status, err := p.blob(ctx, d)
	if err != nil {
		return 0, nil, err
	}
	defer r.Close()
	return r.Size(), status, nil
}

// blob returns a blob's bytes, from the cache or as they come. That somebody
// else's pull has brought the blob here does not make it this repository's:
// unless upstream has confirmed it, it is asked.
func (p *repository) blob(ctx context.Context, d digest.Digest) (*blobcache.Reader, []string, error) {
	size := int64(-1)
	if link, err := p.index.Link(ctx, p.scope, d); err == nil {
		size = link.Size
	}
	r, origin, err := p.get(ctx, d, size)
	if err != nil {
		return nil, nil, err
	}
	p.quotas.Used(p.scope, d, false)
	if origin == blobcache.Led {
		p.weighed(ctx, d, r)
		return r, statusMiss, nil
	}
	size, status, err := p.confirmBlob(ctx, d)
	if err == nil && origin == blobcache.Hit && r.Size() != size {
		_ = r.Close()
		r, origin, err = p.remeasured(ctx, d, size)
	}
	if err != nil {
		if r != nil {
			_ = r.Close()
		}
		return nil, nil, err
	}
	p.weighed(ctx, d, r)
	switch origin {
	case blobcache.Joined:
		status = statusJoined
	case blobcache.Led:
		status = statusMiss
	}
	return r, status, nil
}

// weighed remembers the size of a blob that upstream has confirmed without
// telling it.
func (p *repository) weighed(ctx context.Context, d digest.Digest, r *blobcache.Reader) {
	if link, err := p.index.Link(ctx, p.scope, d); err == nil && link.Size < 0 && r.Size() >= 0 {
		link.Size = r.Size()
		p.link(ctx, d, link)
	}
}

// confirmBlob returns a blob's size, or -1, if upstream says or has said that
// this repository has it.
func (p *repository) confirmBlob(ctx context.Context, d digest.Digest) (size int64, status []string, err error) {
	if link, err := p.index.Link(ctx, p.scope, d); err == nil {
		return link.Size, statusHit, nil
	}
	return p.statBlob(ctx, d)
}

// remeasured returns a blob that is stored with another size than upstream has
// told, or of which upstream tells no size: that it is whole must be seen
// before its first byte is sent. What is found out is remembered.
func (p *repository) remeasured(ctx context.Context, d digest.Digest, size int64) (*blobcache.Reader, blobcache.Origin, error) {
	if size < 0 {
		if whole, err := p.cache.Verify(ctx, d); err == nil {
			size = whole
		}
	}
	r, origin, err := p.get(ctx, d, size)
	if err == nil && origin == blobcache.Hit {
		p.link(ctx, d, blobcache.Link{Size: r.Size()})
	}
	return r, origin, err
}

func (p *repository) get(ctx context.Context, d digest.Digest, size int64) (*blobcache.Reader, blobcache.Origin, error) {
	return p.cache.Get(ctx, blobcache.Request{
		Digest: d,
		Size:   size,
		Limit:  p.quotas.Limit(p.scope),
		Scope:  p.scope,
		Fetch:  p.fetchBlob(d),

		Endpoint:    p.endpoint,
		Source:      p.limits,
		Group:       p.share,
		Reserve:     func(bytes int64) bool { return p.quotas.Reserve(p.scope, bytes) },
		Connections: p.connections,
		Confirmed: func(size int64) {
			ctx, cancel := context.WithTimeout(context.Background(), metadataLimit)
			defer cancel()
			p.link(ctx, d, blobcache.Link{Size: size})
		},
		Stored: func(size int64) { p.quotas.Added(p.scope, size) },
	})
}

func (p *repository) fetchBlob(d digest.Digest) blobcache.Fetch {
	return func(ctx context.Context, offset, length int64, etag string) (*blobcache.Body, error) {
		body, err := p.registry.Blob(ctx, p.name, d, offset, length, etag)
		if err != nil {
			return nil, err
		}
		return &blobcache.Body{ReadCloser: body.ReadCloser, Size: body.Size, Offset: body.Offset, End: body.End, ETag: body.ETag}, nil
	}
}
