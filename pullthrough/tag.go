package pullthrough

import (
	"context"
	"errors"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

const (
	// stalePatience is how long a client for which there is a stale answer waits
	// for a fresh one.
	stalePatience = 5 * time.Second

	// After a failure, upstream is not asked about the tag again for staleHold,
	// or for as long as upstream demands, up to maxStaleHold.
	staleHold    = 15 * time.Second
	maxStaleHold = 10 * time.Minute
)

// resolve returns what a tag stands for: from the index while that is fresh,
// otherwise from upstream, and from the index again if upstream fails. An image
// that upstream has deleted or made private thus stays available.
func (r *Repository) resolve(ctx context.Context, tag string) (index.Ref, Status, error) {
	known, err := r.config.Index.Ref(ctx, r.config.Scope, tag)
	if err != nil {
		ref, err := r.refreshOnce(ctx, tag, nil)
		return ref, Miss, err
	}
	switch {
	case r.isFresh(known):
		return known, Hit, nil
	case time.Now().Before(known.NotBefore):
		return known, Stale, nil
	}
	patient, cancel := context.WithTimeoutCause(ctx, stalePatience, context.DeadlineExceeded)
	defer cancel()
	ref, err := r.refreshOnce(patient, tag, &known)
	switch {
	case err == nil:
		return ref, Revalidated, nil
	case ctx.Err() != nil:
		return index.Ref{}, Miss, context.Cause(ctx)
	}
	if report := r.config.Hooks.Stale; report != nil {
		report(r.config.Scope, tag, err)
	}
	return known, Stale, nil
}

func (r *Repository) isFresh(ref index.Ref) bool {
	return time.Since(ref.Checked) < r.config.FreshFor
}

func (r *Repository) refreshOnce(ctx context.Context, tag string, old *index.Ref) (index.Ref, error) {
	return once(ctx, r, "tag "+tag, func(ctx context.Context) (index.Ref, error) {
		return r.refresh(ctx, tag, old)
	})
}

// refresh asks upstream what a tag stands for and records the answer. If the tag
// has moved away from old, which is nil for an unknown tag, it is recorded only
// after the new content has been stored: until then the old image is the one
// that can be pulled.
func (r *Repository) refresh(ctx context.Context, tag string, old *index.Ref) (index.Ref, error) {
	// Another request may have asked since the caller looked.
	if ref, err := r.config.Index.Ref(ctx, r.config.Scope, tag); err == nil && r.isFresh(ref) {
		return ref, nil
	}
	desc, err := r.confirm(ctx, tag)
	ref := index.Ref{Digest: desc.Digest, MediaType: desc.MediaType, Size: desc.Size, Checked: time.Now()}
	if err == nil && old != nil && ref.Digest != old.Digest {
		var moved *Content
		moved, _, err = r.content(ctx, ref.Digest, r.linkedType(ctx, ref))
		moved.Close()
	}
	switch {
	case err == nil:
		r.recordRef(ctx, tag, ref)
	case old != nil:
		held := *old
		held.NotBefore = time.Now().Add(holdAfter(err))
		r.recordRef(ctx, tag, held)
	}
	return ref, err
}

// holdAfter returns how long upstream is not asked about a tag after an error.
func holdAfter(err error) time.Duration {
	var failure *upstream.Error
	if errors.As(err, &failure) {
		return min(max(staleHold, failure.RetryAfter), maxStaleHold)
	}
	return staleHold
}
