package pullthrough

import (
	"context"
	"errors"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

const (
	// After a failure, upstream is not asked about the tag again for staleHold,
	// or for as long as upstream demands, up to maxStaleHold.
	staleHold    = 15 * time.Second
	maxStaleHold = 10 * time.Minute
)

// resolved is what a tag stands for, and where that comes from.
type resolved struct {
	ref    index.Ref
	status Status
	reason Reason // if status is Stale
	err    error  // of upstream, if status is Stale and it was asked now
	ofPeer bool   // a peer has sent the content now
}

func (a resolved) origin() Origin { return Origin{a.status, a.reason, a.ref.Checked} }

// resolve returns what a tag stands for: from the index while that is fresh, otherwise
// from upstream, or what the index has all the same if upstream fails or takes long.
// An image that upstream has deleted or made private thus stays available for
// Config.StaleFor. What upstream has said about a tag without delivering its content
// is not believed, but asked again; withContent fetches the content of such a tag too.
func (r *Repository) resolve(ctx context.Context, tag choice, withContent bool) (resolved, error) {
	r.noteUse(tag)
	known, believed := r.known(ctx, tag)
	if !believed {
		got, err := r.refreshOnce(ctx, tag, nil, withContent)
		return got.as(Miss), err
	}
	if r.isFresh(known.Checked) && !r.config.Forced {
		return resolved{ref: known, status: Hit}, nil
	}
	got, err := r.recheck(ctx, tag, known)
	if report := r.config.Hooks.Stale; report != nil && got.err != nil && !isHeld(got.err) {
		report(r.config.Scope, tag.tag, got.err)
	}
	return got, err
}

// recheck asks upstream about a tag again. If there may be a stale answer, and the
// question is not forced, upstream is not asked during the pause after a failure, and
// a request waits for it for Config.Patience. While few pulls are left, no question is
// asked during that pause, which may have cost one.
func (r *Repository) recheck(ctx context.Context, tag choice, known index.Ref) (resolved, error) {
	if r.config.Registry.IsOffline() {
		return resolved{ref: known, status: Stale, reason: Offline}, nil
	}
	mayServe, waiting := r.mayServe(known.Checked), ctx
	if mayServe && time.Now().Before(known.NotBefore) && (!r.config.Forced || r.saves(known)) {
		return resolved{ref: known, status: Stale, reason: Reason(known.Reason)}, nil
	}
	if mayServe && !r.config.Forced {
		var done func()
		waiting, done = r.patient(ctx, r.first(r.question(tag, false)))
		defer done()
	}
	got, err := r.refreshOnce(waiting, tag, &known, false)
	switch {
	case err == nil:
		return got.as(Revalidated), nil
	case ctx.Err() != nil:
		return resolved{}, context.Cause(ctx)
	case !mayServe:
		return resolved{}, err
	}
	return resolved{ref: known, status: Stale, reason: ReasonOf(err), err: err}, nil
}

// refreshed is the answer to a question about a tag.
type refreshed struct {
	ref    index.Ref
	ofPeer bool // a peer has sent the content
}

// as returns the answer with the status asked, or Hit if this process did not have to ask.
func (a refreshed) as(asked Status) resolved {
	if a.ref.Learned {
		asked = Hit
	}
	return resolved{ref: a.ref, status: asked, ofPeer: a.ofPeer}
}

// question names the question about a tag. A forced question has another name than
// others, so that it does not join one that upstream may have answered before the request.
func (r *Repository) question(tag choice, withContent bool) string {
	name := "tag " + tag.name()
	if withContent {
		name = "content of " + name
	}
	if r.config.Forced {
		name = "forced " + name
	}
	return name
}

func (r *Repository) refreshOnce(ctx context.Context, tag choice, old *index.Ref, withContent bool) (refreshed, error) {
	if old == nil || !r.mayServe(old.Checked) {
		if err := r.absence("tag " + tag.name()); err != nil {
			return refreshed{}, err
		}
	}
	question := r.question(tag, withContent)
	return oncePeers(ctx, r, question, func(ctx context.Context) (refreshed, error) {
		return r.refreshOfPeer(ctx, tag, old, withContent)
	}, func(ctx context.Context) (refreshed, error) {
		if r.config.Forced {
			if err := r.config.Flights.pace(ctx, r.key(question)); err != nil {
				return refreshed{}, err
			}
		}
		ref, err := r.refresh(ctx, tag, old, withContent)
		r.noteAbsence(ctx, "tag "+tag.name(), err)
		return refreshed{ref: ref}, err
	})
}

// refresh asks upstream what a tag stands for and records the answer.
func (r *Repository) refresh(ctx context.Context, tag choice, old *index.Ref, withContent bool) (index.Ref, error) {
	if ref, known := r.answeredSince(ctx, tag); known {
		return ref, nil
	}
	if ref, ok := r.learn(ctx, tag, old); ok {
		return ref, nil
	}
	asked := time.Now()
	desc, err := r.ask(ctx, tag, old)
	ref := newRef(desc, asked)
	if err == nil {
		if ref, err = r.settle(ctx, tag, old, ref, withContent); err == nil {
			return ref, nil
		}
	}
	now, known := r.known(ctx, tag)
	switch {
	case known && isLater(now, ref):
		return now, nil // the answer to a later question that was forced
	case old != nil && known && !isHeld(err):
		now.NotBefore, now.Reason = time.Now().Add(holdAfter(err)), string(ReasonOf(err))
		r.recordRef(ctx, tag.name(), now)
	}
	return ref, err
}

// settle records what a tag stands for, unless a later answer has been recorded
// meanwhile, which it returns. If the tag has moved away from old, which is nil if none
// is believed, it is recorded only after the new content has been stored: until then the
// old image is the one that can be pulled.
func (r *Repository) settle(ctx context.Context, tag choice, old *index.Ref, ref index.Ref, withContent bool) (index.Ref, error) {
	if withContent || old != nil && ref.Digest != old.Digest {
		var err error
		if ref, err = r.fetchMoved(ctx, tag, old, ref); err != nil {
			return ref, err
		}
	}
	if now, known := r.known(ctx, tag); known && isLater(now, ref) {
		return now, nil // the answer to a later question that was forced
	}
	r.recordMoved(ctx, tag, old, ref)
	return ref, nil
}

// isLater reports whether a was confirmed after b. A time in the future does not count,
// because no answer would replace such a ref until then. It comes from a process whose
// clock is ahead, or from before the clock was set back.
func isLater(a, b index.Ref) bool {
	return a.Checked.After(b.Checked) && !a.Checked.After(time.Now())
}

// answeredSince returns what a tag stands for if another request has learned that since the
// caller looked, and this one is not forced.
func (r *Repository) answeredSince(ctx context.Context, tag choice) (ref index.Ref, known bool) {
	ref, known = r.known(ctx, tag)
	return ref, known && r.isFresh(ref.Checked) && !r.config.Forced
}

// known returns what is recorded for a tag and believed.
func (r *Repository) known(ctx context.Context, tag choice) (ref index.Ref, known bool) {
	ref, err := r.config.Index.Ref(ctx, r.config.Scope, tag.name())
	if err != nil {
		return ref, false
	}
	return r.believed(ctx, tag, ref)
}

// newRef returns the ref for upstream's answer to a question. The age of an answer
// counts from the question, because a change after that may be missed.
func newRef(desc upstream.Descriptor, asked time.Time) index.Ref {
	return index.Ref{Digest: desc.Digest, MediaType: desc.MediaType, Size: desc.Size, Checked: asked}
}

// believed reports whether the repository is known to contain what a tag stands
// for. If so, the media type and the size of the ref are those of the content, and
// not those of a HEAD.
func (r *Repository) believed(ctx context.Context, tag choice, ref index.Ref) (index.Ref, bool) {
	if ref.Linked() {
		return ref, true
	}
	link, linked := r.manifestLink(ctx, ref.Digest)
	if !linked {
		return ref, false
	}
	if ref.MediaType != link.MediaType || ref.Size != link.Size {
		ref.MediaType, ref.Size = link.MediaType, link.Size
		r.recordRef(ctx, tag.name(), ref)
	}
	ref.SetLinked()
	return ref, true
}

// tagContent returns the content of what a tag stands for, and whether it was
// stored already. If upstream does not serve the digest that it has named, because
// the tag was pushed again or because it serves manifests by tag only, the tag
// itself is fetched.
func (r *Repository) tagContent(ctx context.Context, tag choice, ref index.Ref) (_ index.Ref, content *Content, hit bool, err error) {
	ref, believed := r.believed(ctx, tag, ref)
	content, hit, err = r.content(ctx, ref.Digest, believed)
	switch upstream.KindOf(err) {
	case upstream.ManifestUnknown, upstream.NameUnknown, upstream.BlobUnknown, upstream.Denied, upstream.Invalid, upstream.Unavailable:
		ref, content, err = r.refetch(ctx, tag, ref, believed)
		return ref, content, false, err
	}
	if err == nil && !hit {
		if ref, believed = r.believed(ctx, tag, ref); !believed {
			ref.MediaType = content.sentAs // it was purged meanwhile
		}
	}
	return ref, content, hit, err
}

// refetch fetches the content of a tag by the tag. If what it stood for until now is
// believed, the tag may have moved.
func (r *Repository) refetch(ctx context.Context, tag choice, old index.Ref, believed bool) (index.Ref, *Content, error) {
	asked, ctx := time.Now(), askedSince(ctx, r.purgedAt())
	m, err := once(ctx, r, "refetch tag "+tag.name(), func(ctx context.Context) (upstream.Manifest, error) {
		m, err := inTurn(ctx, r, func() (upstream.Manifest, error) {
			return r.config.Registry.RefetchTag(ctx, r.config.Name, tag.tag, tag.accept)
		})
		if err == nil {
			err = r.keep(ctx, m)
		}
		if err == nil && believed {
			r.recordMoved(ctx, tag, &old, newRef(m.Descriptor, asked))
		}
		return m, err
	})
	if err != nil {
		return old, nil, err
	}
	ref := newRef(m.Descriptor, asked)
	r.recordRef(ctx, tag.name(), ref)
	content, err := r.fetched(ctx, m.Digest, m.Content)
	return ref, content, err
}

// holdAfter returns how long upstream is not asked about a tag after an error.
func holdAfter(err error) time.Duration {
	if errors.Is(err, errContradiction) {
		return maxStaleHold
	}
	return max(staleHold, retryAfter(err))
}
