package pullthrough

import (
	"context"
	"encoding/json"
	"io"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// maxPlatforms is how many images of an index are fetched with it.
const maxPlatforms = 8

// fetchPlatforms fetches the images in an index for the platforms of which the index
// before it was pulled. A client that gets the new index pulls its image next, and must
// not fail because upstream does so by then: until the image has come, the old index is
// the one that can be pulled. An image that upstream does not deliver although it
// answers is left to the client.
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
func (r *Repository) platforms(ctx context.Context, d digest.Digest) map[string]digest.Digest {
	content, err := r.stored(ctx, d)
	if err != nil {
		return nil
	}
	defer content.Close()
	bytes := content.Bytes
	if content.File != nil {
		if bytes, err = io.ReadAll(content.File); err != nil {
			return nil
		}
	}
	var index struct {
		Manifests []struct {
			Digest   digest.Digest `json:"digest"`
			Platform struct {
				OS           string `json:"os"`
				Architecture string `json:"architecture"`
				Variant      string `json:"variant"`
			} `json:"platform"`
		} `json:"manifests"`
	}
	if json.Unmarshal(bytes, &index) != nil {
		return nil
	}
	images := make(map[string]digest.Digest)
	for _, m := range index.Manifests {
		p := m.Platform
		if p.OS != "" && p.OS != "unknown" && m.Digest.Validate() == nil { // attestations have no platform
			images[p.OS+"/"+p.Architecture+"/"+p.Variant] = m.Digest
		}
	}
	return images
}
