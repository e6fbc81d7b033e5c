package pullthrough

import (
	"context"
	"strings"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// choice is a tag as upstream offers it to clients that accept some types of
// manifests.
type choice struct {
	tag    string
	accept upstream.Accept
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

// choose returns what a tag stands for, as [Repository.resolve] does. Nearly all
// clients accept what upstream prefers, so one ref per tag records that, which is
// asked for without the client's Accept. Only if the client does not accept its type,
// upstream is asked to choose another, which has a ref of its own. A client gets what
// upstream prefers after all if upstream offers nothing that the client accepts: its
// type is named, and many registries ignore Accept as well.
func (r *Repository) choose(ctx context.Context, tag string, withContent bool) (choice, index.Ref, Status, error) {
	preferred, wanted := choice{tag: tag}, choice{tag, r.config.Accept}
	var known index.Ref
	var believed bool
	if wanted != preferred {
		var err error
		if known, err = r.config.Index.Ref(ctx, r.config.Scope, wanted.name()); err == nil {
			known, believed = r.believed(ctx, wanted, known)
		}
		if believed && wanted.accept.Accepts(known.MediaType) {
			ref, status, err := r.resolve(ctx, wanted, withContent)
			return wanted, ref, status, err
		}
	}
	ref, status, err := r.resolve(ctx, preferred, withContent && wanted == preferred)
	if err != nil || wanted.accept.Accepts(ref.MediaType) || believed && r.isFresh(known) {
		return preferred, ref, status, err
	}
	other, err := r.refreshOnce(ctx, wanted, nil, withContent)
	switch upstream.KindOf(err) {
	case upstream.ManifestUnknown, upstream.NameUnknown, upstream.Denied, upstream.Invalid, upstream.Unsupported:
		r.recordRef(ctx, wanted.name(), ref) // it is not asked again while that is fresh
	}
	switch {
	case err == nil && wanted.accept.Accepts(other.MediaType):
		return wanted, other, Miss, nil
	case ctx.Err() != nil:
		return preferred, ref, status, context.Cause(ctx)
	}
	return preferred, ref, status, nil
}
