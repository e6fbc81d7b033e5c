package pullthrough

import (
	"context"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
)

// learnPatience is how long the storage that processes share may take to tell what
// another one has learnt about a tag, unless half of [Config.Patience] is longer: upstream
// must have its turn too.
const learnPatience = 250 * time.Millisecond

// learn returns what another process that shares the index has learnt from upstream about
// a tag, if that is later than what is known here and still fresh. If the tag has moved
// away from old, which is nil if none is believed, that counts only after the new content
// has been stored. A request that is forced learns nothing.
func (r *Repository) learn(ctx context.Context, tag choice, old *index.Ref) (ref index.Ref, ok bool) {
	if r.config.Forced {
		return ref, false
	}
	asking, cancel := context.WithTimeout(ctx, max(learnPatience, r.config.Patience/2))
	defer cancel()
	ref, ok = r.config.Index.LaterRef(asking, r.config.Scope, tag.name())
	if !ok || !r.isFresh(ref.Checked) {
		return ref, false
	}
	link, linked := r.manifestLink(asking, ref.Digest)
	if !linked {
		return ref, false
	}
	ref.MediaType, ref.Size = link.MediaType, link.Size
	ref, err := r.settle(ctx, tag, old, ref, false)
	return ref, err == nil
}
