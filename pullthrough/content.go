package pullthrough

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/mediatype"
)

// Content is the content of a manifest, in memory or in a file.
type Content struct {
	// Bytes is set if the content is small or cannot be stored. It must not be
	// changed.
	Bytes []byte

	// File reads the stored content if it is large, so that a client that reads
	// slowly takes no memory of its size. It is nil if Bytes is set.
	File *blobcache.Reader

	// FromReplica is set if one of Config.Replicas has sent the content for this
	// request, or for another one at the same time. FromPeer is set if a peer has.
	FromReplica, FromPeer bool

	// sentAs is the media type of content that was transferred for this request, or for
	// another one at the same time.
	sentAs string
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

// mediaType returns the media type of a manifest. claimed is what upstream says it is.
func (c *Content) mediaType(claimed string) (string, error) {
	bytes := c.Bytes
	if c.File != nil {
		var err error
		if bytes, err = io.ReadAll(c.File); err != nil {
			return "", err
		}
	}
	return mediatype.OfManifest(claimed, bytes)
}

// content returns a manifest's content, and whether it was stored already or came from a
// replica. Stored content and replicas are used only if the repository is linked to the
// content.
func (r *Repository) content(ctx context.Context, d digest.Digest, linked bool) (content *Content, hit bool, err error) {
	if linked {
		content, err := r.stored(ctx, d)
		if err == nil && content.Bytes != nil {
			r.config.Sizes.remember(r.config.Scope, d, content.Bytes)
		}
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return content, err == nil, err
		}
	}
	got, err := oncePeers(ctx, r, "manifest "+d.String(), func(ctx context.Context) (transferred, error) {
		if got, ok := r.storedSince(ctx, d); ok {
			return got, nil
		}
		m, err := r.manifestOfPeer(ctx, d)
		if err == nil {
			err = r.put(ctx, m)
		}
		return transferred{bytes: m.Content, mediaType: m.MediaType, ofPeer: true}, err
	}, func(ctx context.Context) (transferred, error) {
		return r.fetchManifest(ctx, d)
	})
	if err != nil {
		return nil, false, err
	}
	content, err = r.fetched(ctx, d, got.bytes)
	if err == nil {
		content.FromReplica, content.FromPeer, content.sentAs = got.copied, got.ofPeer, got.mediaType
	}
	return content, linked && (got.copied || got.stored), err
}

// transferred is what a transfer of a manifest has brought.
type transferred struct {
	bytes     []byte // nil if large content is in the store
	mediaType string
	stored    bool // since the caller looked
	copied    bool // from a replica
	ofPeer    bool
}

// fetched returns the content of a manifest after its transfer. If it is large, or if
// bytes is nil because it has been stored meanwhile, it is read from the store.
func (r *Repository) fetched(ctx context.Context, d digest.Digest, bytes []byte) (*Content, error) {
	if bytes != nil {
		r.config.Sizes.remember(r.config.Scope, d, bytes)
	}
	if bytes == nil || len(bytes) > largeAnswer {
		// All requests that have waited share these bytes. A slow client must not keep
		// them in memory, so each request reads the file instead.
		if content, err := r.stored(ctx, d); err == nil || bytes == nil {
			return content, err
		}
	}
	return &Content{Bytes: bytes}, nil
}

// stored returns stored content. The error is [fs.ErrNotExist] if there is none.
func (r *Repository) stored(ctx context.Context, d digest.Digest) (*Content, error) {
	small, large, err := r.config.Cache.Find(ctx, d, upstream.MaxManifest)
	if err != nil {
		return nil, err
	}
	return &Content{Bytes: small, File: large}, nil
}

// fetchManifest returns the content that a replica has, if the repository is linked to
// it, or that upstream sends. It returns no bytes of large content that has been stored
// since the caller looked.
func (r *Repository) fetchManifest(ctx context.Context, d digest.Digest) (transferred, error) {
	if got, ok := r.storedSince(ctx, d); ok {
		return got, nil
	}
	if link, linked := r.manifestLink(ctx, d); linked {
		if bytes, err := r.copyManifest(ctx, d, link.Size); err == nil {
			r.config.Quotas.Added(r.config.Scope, link.Size)
			return transferred{bytes: bytes, mediaType: link.MediaType, copied: true}, nil
		}
	}
	m, err := inTurn(ctx, r, func() (upstream.Manifest, error) {
		return r.config.Registry.Manifest(ctx, r.config.Name, d.String())
	})
	if err != nil {
		return transferred{}, err
	}
	return transferred{bytes: m.Content, mediaType: m.MediaType}, r.keep(ctx, m)
}

// storedSince returns content that has been stored since the caller looked, without its
// bytes if it is large. The repository must be linked to it.
func (r *Repository) storedSince(ctx context.Context, d digest.Digest) (transferred, bool) {
	link, linked := r.manifestLink(ctx, d)
	if !linked {
		return transferred{}, false
	}
	content, err := r.stored(ctx, d)
	if err != nil {
		return transferred{}, false
	}
	content.Close()
	return transferred{bytes: content.Bytes, mediaType: link.MediaType, stored: true}, true
}

// copyManifest stores a manifest that a replica has, and returns it. The endpoint must
// have delivered it, with this size. The error is [fs.ErrNotExist] if no replica has it.
func (r *Repository) copyManifest(ctx context.Context, d digest.Digest, size int64) ([]byte, error) {
	c := &r.config
	if len(c.Replicas) == 0 || size > upstream.MaxManifest {
		return nil, fs.ErrNotExist
	}
	// Replicas have turns of their own: all those of the endpoint may wait for upstream.
	done, err := c.Questions.takeSoon(ctx, queueKey{"replicas", c.Group})
	if err != nil {
		return nil, err
	}
	defer done()
	return c.Cache.Copy(ctx, d, size, c.Replicas, c.Downloads)
}

// keep stores a manifest that upstream has delivered.
func (r *Repository) keep(ctx context.Context, m upstream.Manifest) error {
	r.fetchedBytes(len(m.Content))
	return r.put(ctx, m)
}

// put stores a manifest that upstream has delivered, to this process or to a peer.
func (r *Repository) put(ctx context.Context, m upstream.Manifest) error {
	if err := r.config.Cache.PutBytes(ctx, m.Digest, m.Content); err != nil {
		return fmt.Errorf("storing a manifest: %w", err)
	}
	r.recordDelivery(ctx, m.Digest, index.Link{MediaType: m.MediaType, Size: m.Size})
	r.config.Quotas.Added(r.config.Scope, m.Size)
	return nil
}
