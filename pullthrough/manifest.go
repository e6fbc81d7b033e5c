package pullthrough

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// maxManifest is the size limit of a manifest in bytes (OCI distribution
// specification, "Pushing Manifests").
const maxManifest = 4 << 20

// Manifest is a manifest or an index.
type Manifest struct {
	Digest    digest.Digest
	MediaType string
	Size      int64 // in bytes

	// Content is nil unless it was asked for. The caller must close it.
	Content *Content

	Status Status
}

// Content is the content of a manifest, in memory or in a file.
type Content struct {
	// Bytes is set if the content is small or cannot be stored. It must not be
	// changed.
	Bytes []byte

	// File reads the stored content if it is large, so that a client that reads
	// slowly takes no memory of its size. It is nil if Bytes is set.
	File *blobcache.Reader
}

// Size returns the number of bytes.
func (c *Content) Size() int64 {
	if c.File != nil {
		return c.File.Size()
	}
	return int64(len(c.Bytes))
}

// Close closes the file, if there is one. Closing a nil Content does nothing.
func (c *Content) Close() {
	if c != nil && c.File != nil {
		_ = c.File.Close()
	}
}

// ManifestByTag returns the manifest that a tag stands for, with its content if
// withContent is set. An error is upstream's, an [*upstream.Error],
// [ErrTooManyQuestions] or the cause of the context's end.
func (r *Repository) ManifestByTag(ctx context.Context, tag string, withContent bool) (Manifest, error) {
	ref, status, err := r.resolve(ctx, tag)
	if err != nil {
		return Manifest{}, err
	}
	m := Manifest{Digest: ref.Digest, MediaType: ref.MediaType, Size: ref.Size, Status: status}
	mediaType := r.linkedType(ctx, ref)
	if !withContent {
		if mediaType != "" {
			r.markUsed(ref.Digest)
		}
		return m, nil
	}
	content, hit, err := r.content(ctx, ref.Digest, mediaType)
	if err != nil {
		return Manifest{}, err
	}
	ref.SetLinked()
	if !hit {
		m.Status = Miss
	}
	m.Content, m.Size = content, content.Size()
	r.markUsed(ref.Digest)
	return m, nil
}

// ManifestByDigest returns a manifest that the repository contains, with its
// content if withContent is set. Errors are those of [Repository.ManifestByTag].
func (r *Repository) ManifestByDigest(ctx context.Context, d digest.Digest, withContent bool) (Manifest, error) {
	m := Manifest{Digest: d, Status: Hit}
	link, linked := r.manifestLink(ctx, d)
	m.MediaType, m.Size = link.MediaType, link.Size
	if !linked {
		m.Status = Miss
		if !withContent || r.wasDelivered(ctx, d) {
			// Either the content was delivered to another repository, or only its
			// existence is asked about. For both, upstream is asked by HEAD, which
			// does not count as a pull.
			desc, err := r.confirmOnce(ctx, d)
			if err != nil {
				return Manifest{}, err
			}
			m.MediaType, m.Size = desc.MediaType, desc.Size
			link, linked = r.manifestLink(ctx, d)
		}
	}
	if !withContent {
		if linked {
			r.markUsed(d)
		}
		return m, nil
	}
	content, hit, err := r.content(ctx, d, link.MediaType)
	if err != nil {
		return Manifest{}, err
	}
	if !hit {
		m.Status = Miss
		if link, err = r.config.Index.Link(ctx, r.config.Scope, d); err != nil {
			content.Close()
			return Manifest{}, err
		}
	}
	m.MediaType, m.Content, m.Size = link.MediaType, content, content.Size()
	r.markUsed(d)
	return m, nil
}

// markUsed records that a client was told of a manifest that the repository
// contains. What the manifest names is in use too: a client that has the image
// already pulls it by nothing but the HEAD of a tag.
func (r *Repository) markUsed(d digest.Digest) {
	r.config.Cache.Used(d)
	r.config.Quotas.Used(r.config.Scope, d, true)
}

// manifestLink returns the link to a manifest that the repository is known to
// contain. A link to a blob does not count.
func (r *Repository) manifestLink(ctx context.Context, d digest.Digest) (link index.Link, linked bool) {
	link, err := r.config.Index.Link(ctx, r.config.Scope, d)
	if err != nil || link.MediaType == "" {
		return index.Link{}, false
	}
	return link, true
}

// linkedType returns the media type of what a tag stands for if the repository is
// known to contain it, and the empty string if only upstream says so.
func (r *Repository) linkedType(ctx context.Context, ref index.Ref) string {
	if !ref.Linked() {
		if _, linked := r.manifestLink(ctx, ref.Digest); !linked {
			return ""
		}
		ref.SetLinked()
	}
	return ref.MediaType
}

// wasDelivered reports whether content is stored that upstream has delivered, to
// this repository or to another one.
func (r *Repository) wasDelivered(ctx context.Context, d digest.Digest) bool {
	if _, err := r.config.Index.Delivery(ctx, r.config.Scope, d); err != nil {
		return false
	}
	_, stored := r.config.Cache.Has(ctx, d)
	return stored
}

func (r *Repository) confirmOnce(ctx context.Context, d digest.Digest) (upstream.Descriptor, error) {
	return once(ctx, r, "stat "+d.String(), func(ctx context.Context) (upstream.Descriptor, error) {
		return r.confirm(ctx, d.String())
	})
}

// confirm asks upstream what a tag or digest stands for, by HEAD where that
// suffices. If upstream has delivered the content before, the repository is
// linked to it.
func (r *Repository) confirm(ctx context.Context, reference string) (upstream.Descriptor, error) {
	m, err := inTurn(ctx, r, func() (upstream.Manifest, error) {
		return r.config.Registry.ResolveManifest(ctx, r.config.Name, reference)
	})
	if err != nil {
		return upstream.Descriptor{}, err
	}
	if m.Content == nil {
		if r.linkConfirmed(ctx, m.Descriptor) {
			return m.Descriptor, nil
		}
		// HEAD contradicts what was delivered, so a GET decides.
		if m, err = r.getManifest(ctx, reference); err != nil {
			return upstream.Descriptor{}, err
		}
	}
	return m.Descriptor, r.keep(ctx, m)
}

// linkConfirmed links the repository to a manifest that upstream has confirmed by
// HEAD, provided that upstream has delivered it before. It reports false if the
// size differs from the size that was delivered.
func (r *Repository) linkConfirmed(ctx context.Context, desc upstream.Descriptor) bool {
	link := index.Link{MediaType: desc.MediaType, Size: desc.Size}
	if known, err := r.config.Index.Link(ctx, r.config.Scope, desc.Digest); err == nil && known == link {
		return true
	}
	delivery, err := r.config.Index.Delivery(ctx, r.config.Scope, desc.Digest)
	if err != nil {
		return true
	}
	if delivery.Size != desc.Size {
		return false
	}
	r.recordDelivery(ctx, desc.Digest, link)
	r.config.Quotas.Added(r.config.Scope, desc.Size)
	return true
}

// content returns a manifest's content, and whether it was stored already. The
// media type must be empty unless the repository is linked to the manifest.
func (r *Repository) content(ctx context.Context, d digest.Digest, mediaType string) (content *Content, hit bool, err error) {
	if mediaType != "" {
		content, err := r.stored(ctx, d)
		if err == nil && content.Bytes != nil {
			r.config.Sizes.remember(r.config.Scope, d, content.Bytes)
		}
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return content, err == nil, err
		}
	}
	fetched, err := once(ctx, r, "manifest "+d.String(), func(ctx context.Context) ([]byte, error) {
		return r.fetchManifest(ctx, d)
	})
	if err != nil {
		return nil, false, err
	}
	if fetched != nil {
		r.config.Sizes.remember(r.config.Scope, d, fetched)
	}
	if fetched == nil || len(fetched) > largeAnswer {
		// The requests that have waited hold the same bytes. They must not do so
		// while they send them.
		content, err = r.stored(ctx, d)
		if err == nil || fetched == nil {
			return content, false, err
		}
	}
	return &Content{Bytes: fetched}, false, nil
}

// stored returns stored content; an error that is [fs.ErrNotExist] if there is
// none.
func (r *Repository) stored(ctx context.Context, d digest.Digest) (*Content, error) {
	small, large, err := r.config.Cache.Find(ctx, d, maxManifest)
	if err != nil {
		return nil, err
	}
	return &Content{Bytes: small, File: large}, nil
}

// fetchManifest returns the content that upstream sends, or nil if large content
// has been stored since the caller looked.
func (r *Repository) fetchManifest(ctx context.Context, d digest.Digest) ([]byte, error) {
	if _, linked := r.manifestLink(ctx, d); linked {
		if content, err := r.stored(ctx, d); err == nil {
			content.Close()
			return content.Bytes, nil
		}
	}
	m, err := r.getManifest(ctx, d.String())
	if err != nil {
		return nil, err
	}
	return m.Content, r.keep(ctx, m)
}

func (r *Repository) getManifest(ctx context.Context, reference string) (upstream.Manifest, error) {
	return inTurn(ctx, r, func() (upstream.Manifest, error) {
		return r.config.Registry.Manifest(ctx, r.config.Name, reference)
	})
}

// keep stores a manifest that upstream has delivered.
func (r *Repository) keep(ctx context.Context, m upstream.Manifest) error {
	if err := r.config.Cache.PutBytes(ctx, m.Digest, m.Content); err != nil {
		return fmt.Errorf("storing a manifest: %w", err)
	}
	r.recordDelivery(ctx, m.Digest, index.Link{MediaType: m.MediaType, Size: m.Size})
	r.config.Quotas.Added(r.config.Scope, m.Size)
	return nil
}
