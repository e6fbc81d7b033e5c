package pullthrough

import (
	"context"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
)

// learnPatience limits the time for reading from a shared index what another process has
// learned about a tag, so that there is time left to ask upstream. Half of [Config.Patience]
// is used instead if that is longer.
const learnPatience = 250 * time.Millisecond

// learn returns what another process that shares the index has learned from upstream about
// a tag, if that is later than what is known here and still fresh. old is the ref that is
// believed, or nil. If the tag has moved away from it, learn stores the new content first.
// A forced request learns nothing.
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
