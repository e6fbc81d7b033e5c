package pullthrough

import (
	"context"
	"errors"
	"io/fs"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// Manifest is a manifest or an index.
type Manifest struct {
	Digest    digest.Digest
	MediaType string
	Size      int64 // in bytes

	// Content is nil unless it was asked for. The caller must close it.
	Content *Content

	Origin
}

// ManifestByTag returns the manifest that a tag stands for, with its content if
// withContent is set. The error is that of upstream, which is an [*upstream.Error];
// [ErrTooManyQuestions]; or the cause with which ctx has ended.
func (r *Repository) ManifestByTag(ctx context.Context, tag string, withContent bool) (Manifest, error) {
	ctx, answered := watchLoop(ctx, r, "manifest "+tag, func(ctx context.Context) (upstream.Manifest, error) {
		return r.config.Registry.HeadTag(ctx, r.config.Name, tag, r.config.Accept)
	})
	defer answered()
	chosen, got, err := r.choose(ctx, tag, withContent)
	if err != nil {
		return Manifest{}, err
	}
	ref, origin := got.ref, got.origin()
	if !withContent {
		ref, believed := r.believed(ctx, chosen, ref)
		if believed {
			r.markUsed(ref.Digest)
		}
		return Manifest{Digest: ref.Digest, MediaType: ref.MediaType, Size: ref.Size, Origin: origin}, nil
	}
	ref, content, hit, err := r.tagContent(ctx, chosen, ref)
	if err != nil {
		return Manifest{}, err
	}
	if confirmed := !ref.Checked.Equal(origin.Checked); !hit && (origin.Status != Stale || confirmed) {
		origin = Origin{Status: Miss, Checked: ref.Checked}
	}
	if hit && got.ofPeer && got.status == Miss {
		content.FromPeer = true
	}
	r.markUsed(ref.Digest)
	return Manifest{Digest: ref.Digest, MediaType: ref.MediaType, Size: content.Size(), Content: content, Origin: origin}, nil
}

// ManifestByDigest returns a manifest that the repository contains, with its
// content if withContent is set. Errors are those of [Repository.ManifestByTag].
//
// The repository contains what upstream sends for the digest. If upstream has already
// delivered the content to another repository, a successful HEAD is enough. An index of
// this repository that names the digest proves nothing: registries accept indexes of
// manifests that they do not have, so whoever pushes to one repository could read the
// images of another one through such an index.
func (r *Repository) ManifestByDigest(ctx context.Context, d digest.Digest, withContent bool) (Manifest, error) {
	ctx, answered := watchLoop(ctx, r, "manifest "+d.String(), func(ctx context.Context) (upstream.Manifest, error) {
		return r.config.Registry.ResolveManifest(ctx, r.config.Name, d.String())
	})
	defer answered()
	m := Manifest{Digest: d, Origin: Origin{Status: Hit}}
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
	content, hit, err := r.content(ctx, d, linked)
	if err != nil {
		return Manifest{}, err
	}
	if !hit {
		m.Status, link.MediaType = Miss, content.sentAs
	}
	m.MediaType, m.Content, m.Size = link.MediaType, content, content.Size()
	r.markUsed(d)
	return m, nil
}

// markUsed records that a client was told of a manifest that the repository contains.
// The content that the manifest names counts as used too: a client that already has the
// image only sends a HEAD for the tag.
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

// wasDelivered reports whether upstream has delivered content, to this repository or to
// another one, and the content is stored, or may be in a replica.
func (r *Repository) wasDelivered(ctx context.Context, d digest.Digest) bool {
	if _, err := r.config.Index.Delivery(ctx, r.config.Scope, d); err != nil {
		return false
	}
	_, stored := r.config.Cache.Has(ctx, d)
	return stored || len(r.config.Replicas) > 0
}

func (r *Repository) confirmOnce(ctx context.Context, d digest.Digest) (upstream.Descriptor, error) {
	return oncePeers(ctx, r, "stat "+d.String(), func(ctx context.Context) (upstream.Descriptor, error) {
		return r.headOfPeer(ctx, d)
	}, func(ctx context.Context) (upstream.Descriptor, error) {
		return r.confirm(ctx, func() (upstream.Manifest, error) {
			return r.config.Registry.ResolveManifest(ctx, r.config.Name, d.String())
		}, func() (upstream.Manifest, error) {
			return r.config.Registry.Manifest(ctx, r.config.Name, d.String())
		})
	})
}

// confirm asks upstream what a tag or digest stands for: by head, and by get where
// that does not suffice. If upstream has delivered the content before, the
// repository is linked to it.
func (r *Repository) confirm(ctx context.Context, head, get func() (upstream.Manifest, error)) (upstream.Descriptor, error) {
	m, err := inTurn(ctx, r, head)
	if err != nil {
		return upstream.Descriptor{}, err
	}
	if m.Content == nil {
		if desc, ok := r.linkConfirmed(ctx, m.Descriptor); ok {
			return desc, nil
		}
		// HEAD contradicts what was delivered, so a GET decides.
		if m, err = inTurn(ctx, r, get); err != nil {
			return upstream.Descriptor{}, err
		}
	}
	return m.Descriptor, r.keep(ctx, m)
}

// linkConfirmed links the repository to a manifest that upstream has confirmed by
// HEAD, provided that upstream has delivered it before and that it is stored, or that a
// replica has it. It returns the descriptor, whose media type is that of the content if
// that is known, whatever HEAD says. It reports false if HEAD contradicts the content.
func (r *Repository) linkConfirmed(ctx context.Context, desc upstream.Descriptor) (upstream.Descriptor, bool) {
	known, err := r.config.Index.Link(ctx, r.config.Scope, desc.Digest)
	if err == nil && known.MediaType != "" && known.Size == desc.Size {
		desc.MediaType = known.MediaType
		return desc, true
	}
	delivery, err := r.config.Index.Delivery(ctx, r.config.Scope, desc.Digest)
	if err != nil {
		return desc, true
	}
	if delivery.Size != desc.Size {
		return desc, false
	}
	content, err := r.stored(ctx, desc.Digest)
	if errors.Is(err, fs.ErrNotExist) {
		content = new(Content)
		content.Bytes, err = r.copyManifest(ctx, desc.Digest, delivery.Size)
	}
	if err != nil {
		return desc, true // the content is fetched when a client asks for it
	}
	defer content.Close()
	mediaType, err := content.mediaType(desc.MediaType)
	if err != nil {
		return desc, false
	}
	desc.MediaType = mediaType
	r.recordDelivery(ctx, desc.Digest, index.Link{MediaType: desc.MediaType, Size: desc.Size})
	r.config.Quotas.Added(r.config.Scope, desc.Size)
	return desc, true
}
