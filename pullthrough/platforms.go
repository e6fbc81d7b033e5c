package pullthrough

import (
	"context"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// maxPlatforms is the largest number of images that are fetched with an index.
const maxPlatforms = 8

// fetchPlatforms fetches images of a new index: those for the platforms whose image in the
// old index was pulled. A client that gets the new index pulls its image next. If upstream
// failed then, the client would have neither image; so an outage while the images are
// fetched is an error, with which the tag keeps the old index. If upstream answers that it
// does not deliver an image, the client that asks for it gets that answer.
func (r *Repository) fetchPlatforms(ctx context.Context, old, now index.Ref) error {
	before := r.platforms(ctx, old.Digest)
	if len(before) == 0 {
		return nil
	}
	fetched := 0
	for platform, d := range r.platforms(ctx, now.Digest) {
		was, ok := before[platform]
		if !ok || was == d || fetched == maxPlatforms {
			continue
		}
		if _, pulled := r.manifestLink(ctx, was); !pulled {
			continue
		}
		fetched++
		_, linked := r.manifestLink(ctx, d)
		content, _, err := r.content(ctx, d, linked)
		content.Close()
		switch upstream.KindOf(err) {
		case upstream.Unavailable, upstream.Timeout, upstream.RateLimited:
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

// platforms returns the images in a stored index by their platform. It returns none for
// other content.
func (r *Repository) platforms(ctx context.Context, d digest.Digest) map[Platform]digest.Digest {
	content, err := r.stored(ctx, d)
	if err != nil {
		return nil
	}
	children, err := content.children()
	if err != nil {
		return nil
	}
	images := make(map[Platform]digest.Digest)
	for _, c := range children {
		if p := c.platform; c.Compound && p != nil && p.OS != "" && p.OS != "unknown" && c.Digest.Validate() == nil { // attestations are of no platform
			images[*p] = c.Digest
		}
	}
	return images
}
