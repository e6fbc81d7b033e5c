package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// maxManifest is how long a manifest may be, in bytes (OCI distribution
// specification, "Pushing Manifests").
const maxManifest = 4 << 20

// manifest is what a manifest request needs: content only if it has a body.
type manifest struct {
	index.Ref
	content *body
	status  []string // Cache-Status
}

func (ex *exchange) serveManifest(p *repository) *apiError {
	ctx := ex.r.Context()
	var m manifest
	var err error
	if ex.route.tag != "" {
		m, err = p.byTag(ctx, ex.route.tag, ex.wantsBody())
	} else {
		m, err = p.byDigest(ctx, ex.route.digest, ex.wantsBody())
	}
	defer m.content.close()
	if err != nil {
		return ex.fromUpstream(p, err, manifestUnknown, tooManyRequests)
	}
	if m.content != nil || p.linkedType(ctx, m.Ref) != "" {
		p.used(m.Digest) // and not what upstream only says to have
	}
	return ex.sendManifest(m)
}

// byTag answers with what the tag stands for, and its content if wanted.
func (p *repository) byTag(ctx context.Context, tag string, body bool) (manifest, error) {
	ref, status, err := p.resolve(ctx, tag)
	if err != nil {
		return manifest{}, err
	}
	m := manifest{Ref: ref, status: status}
	if !body {
		return m, nil
	}
	var hit bool
	m.content, hit, err = p.content(ctx, ref.Digest, p.linkedType(ctx, ref))
	if !hit {
		m.status = statusMiss
	}
	if err == nil {
		ref.SetLinked()
	}
	m.Size = m.content.size()
	return m, err
}

// linkedType returns the media type of what a tag stands for if this repository
// is known to contain it, and nothing if upstream has only said so.
func (p *repository) linkedType(ctx context.Context, ref index.Ref) string {
	if !ref.Linked() {
		if link, err := p.index.Link(ctx, p.scope, ref.Digest); err != nil || link.MediaType == "" {
			return ""
		}
		ref.SetLinked()
	}
	return ref.MediaType
}

// byDigest answers with the manifest of a digest that this repository has.
func (p *repository) byDigest(ctx context.Context, d digest.Digest, body bool) (manifest, error) {
	m := manifest{Ref: index.Ref{Digest: d}, status: statusHit}
	link, err := p.index.Link(ctx, p.scope, d)
	linked := err == nil && link.MediaType != ""
	if !linked {
		link.MediaType = ""
		m.status = statusMiss
	}
	if !linked && (!body || p.holds(ctx, d)) {
		// Another repository's content, or a question about content that is not
		// here: either way upstream tells, without it counting as a pull.
		desc, err := once(ctx, p, "stat "+d.String(), func(ctx context.Context) (upstream.Descriptor, error) {
			return p.confirm(ctx, d.String())
		})
		if err != nil {
			return m, err
		}
		link = index.Link{MediaType: desc.MediaType, Size: desc.Size}
	}
	m.MediaType, m.Size = link.MediaType, link.Size
	if !body {
		return m, nil
	}
	var hit bool
	m.content, hit, err = p.content(ctx, d, link.MediaType)
	if err != nil {
		return m, err
	}
	if !hit {
		m.status = statusMiss
		if link, err = p.index.Link(ctx, p.scope, d); err != nil {
			return m, err
		}
	}
	m.MediaType, m.Size = link.MediaType, m.content.size()
	return m, nil
}

// holds reports whether content is stored that upstream has delivered, for this
// repository or for another one.
func (p *repository) holds(ctx context.Context, d digest.Digest) bool {
	if _, err := p.index.Delivery(ctx, p.scope, d); err != nil {
		return false
	}
	_, stored := p.cache.Has(ctx, d)
	return stored
}

// confirm asks what a tag or digest stands for, by HEAD, which registries do not
// count. The repository is linked to content that upstream has delivered before.
// Where HEAD contradicts the size of that, a GET decides.
func (p *repository) confirm(ctx context.Context, reference string) (upstream.Descriptor, error) {
	m, err := askOf(ctx, p, func() (upstream.Manifest, error) { return p.registry.ResolveManifest(ctx, p.name, reference) })
	if err == nil && m.Content == nil {
		link := index.Link{MediaType: m.MediaType, Size: m.Size}
		if known, err := p.index.Link(ctx, p.scope, m.Digest); err == nil && known == link {
			return m.Descriptor, nil
		}
		known, err := p.index.Delivery(ctx, p.scope, m.Digest)
		if err != nil {
			return m.Descriptor, nil
		}
		if known.Size == m.Size {
			p.delivered(ctx, m.Digest, link)
			p.quotas.Added(p.scope, m.Size)
			return m.Descriptor, nil
		}
		if m, err = p.getManifest(ctx, reference); err != nil {
			return upstream.Descriptor{}, err
		}
	}
	if err == nil {
		err = p.keep(ctx, m)
	}
	return m.Descriptor, err
}

// content returns a manifest's bytes. The media type is empty unless the
// repository is linked to it.
func (p *repository) content(ctx context.Context, d digest.Digest, mediaType string) (content *body, hit bool, err error) {
	if mediaType != "" {
		content, err := p.stored(ctx, d)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return content, err == nil, err
		}
	}
	fetched, err := once(ctx, p, "manifest "+d.String(), func(ctx context.Context) ([]byte, error) {
		return p.fetchManifest(ctx, d)
	})
	if err != nil {
		return nil, false, err
	}
	if fetched == nil || len(fetched) > largeAnswer {
		// All who have waited hold the same bytes, but not while they send them.
		content, err = p.stored(ctx, d)
		if err == nil || fetched == nil {
			return content, false, err
		}
	}
	return &body{bytes: fetched}, false, nil
}

func (p *repository) stored(ctx context.Context, d digest.Digest) (*body, error) {
	small, large, err := p.cache.Find(ctx, d, maxManifest)
	return &body{small, large}, err
}

// fetchManifest returns the content that upstream has sent, or nil if it is stored
// already.
func (p *repository) fetchManifest(ctx context.Context, d digest.Digest) ([]byte, error) {
	// It may have come since the caller looked.
	if link, err := p.index.Link(ctx, p.scope, d); err == nil && link.MediaType != "" {
		if content, err := p.stored(ctx, d); err == nil {
			content.close()
			return content.bytes, nil
		}
	}
	m, err := p.getManifest(ctx, d.String())
	if err != nil {
		return nil, err
	}
	return m.Content, p.keep(ctx, m)
}

// keep stores a manifest that upstream has delivered.
func (p *repository) keep(ctx context.Context, m upstream.Manifest) error {
	if err := p.cache.PutBytes(ctx, m.Digest, m.Content); err != nil {
		return fmt.Errorf("keep manifest: %w", err)
	}
	p.delivered(ctx, m.Digest, index.Link{MediaType: m.MediaType, Size: m.Size})
	p.quotas.Added(p.scope, m.Size)
	return nil
}
