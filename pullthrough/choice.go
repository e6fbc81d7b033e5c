package pullthrough

import (
	"context"
	"strings"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/mediatype"
)

// choice is a tag as upstream offers it to clients that accept some types of
// manifests.
type choice struct {
	tag    string
	accept mediatype.Accept
}

// choiceMark separates a tag and the types in the name of a choice. A tag does not
// contain it.
const choiceMark = "@"

// name returns the name of the choice in the index: the tag, if any type is accepted.
func (c choice) name() string {
	if c.accept == 0 {
		return c.tag
	}
	return c.tag + choiceMark + c.accept.String()
}

// IsTag reports whether the name of a ref is a tag. Others are of what upstream has
// chosen for clients that accept only some types of manifests.
func IsTag(name string) bool { return !strings.Contains(name, choiceMark) }

// choose returns what a tag stands for, as [Repository.resolve] does. Nearly all clients
// accept the type that upstream prefers. So upstream is first asked without the client's
// Accept, and one ref per tag records the answer for all clients. Only for a client that
// does not accept that type, upstream is asked again with its Accept; the answer has a
// ref of its own. If upstream offers nothing that the client accepts, the client gets
// what upstream prefers, with its type, as from the many registries that ignore Accept.
func (r *Repository) choose(ctx context.Context, tag string, withContent bool) (choice, resolved, error) {
	preferred, wanted, purged := choice{tag: tag}, choice{tag, r.config.Accept}, r.purgedAt()
	var known index.Ref
	var believed bool
	if wanted != preferred {
		known, believed = r.known(ctx, wanted)
		if believed && wanted.accept.Accepts(known.MediaType) {
			got, err := r.resolve(ctx, wanted, withContent)
			return wanted, got, err
		}
	}
	got, err := r.resolve(ctx, preferred, withContent && wanted == preferred)
	if err != nil || wanted.accept.Accepts(got.ref.MediaType) || believed && r.isFresh(known.Checked) && !r.config.Forced {
		return preferred, got, err
	}
	other := resolved{status: Miss}
	if believed { // upstream has offered nothing that the client accepts
		other, err = r.recheck(ctx, wanted, known)
	} else {
		var asked refreshed
		asked, err = r.refreshOnce(ctx, wanted, nil, withContent)
		other.ref, other.ofPeer = asked.ref, asked.ofPeer
	}
	if err != nil {
		other.reason = ReasonOf(err)
	}
	switch other.reason {
	case NotFound, Denied, Invalid:
		if got.status != Stale {
			r.recordRef(askedSince(ctx, purged), wanted.name(), got.ref) // it is not asked again while that is fresh
		}
	}
	switch {
	case err == nil && wanted.accept.Accepts(other.ref.MediaType):
		return wanted, other, nil
	case ctx.Err() != nil:
		return preferred, got, context.Cause(ctx)
	}
	return preferred, got, nil
}
