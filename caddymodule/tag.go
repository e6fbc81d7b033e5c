package caddymodule

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

const (
	// stalePatience is how long a client that could have a stale answer is
	// kept waiting for a fresh one.
	stalePatience = 5 * time.Second

	// After a failure upstream is left alone for a while, longer if it asks
	// for that, as long as there are stale answers.
	staleHold    = 15 * time.Second
	maxStaleHold = 10 * time.Minute
)

// resolve finds out what a tag stands for: from memory while that is fresh,
// else from upstream, else from memory all the same. An image that upstream
// has deleted, or no longer lets anybody read, stays available from here.
func (p *repository) resolve(ctx context.Context, tag string) (index.Ref, []string, error) {
	old, err := p.index.Ref(ctx, p.scope, tag)
	if err != nil {
		ref, err := once(ctx, p, "tag "+tag, func(ctx context.Context) (index.Ref, error) {
			return p.askFirst(ctx, tag)
		})
		return ref, statusMiss, err
	}
	now := time.Now()
	switch {
	case now.Sub(old.Checked) < p.freshFor:
		return old, statusHit, nil
	case now.Before(old.NotBefore):
		return old, statusStale, nil
	}
	patient, cancel := context.WithTimeoutCause(ctx, stalePatience, context.DeadlineExceeded)
	defer cancel()
	ref, err := once(patient, p, "tag "+tag, func(ctx context.Context) (index.Ref, error) {
		return p.askAgain(ctx, tag, old)
	})
	if err == nil {
		return ref, statusRevalidated, nil
	}
	if ctx.Err() != nil {
		return old, nil, context.Cause(ctx)
	}
	p.logger.Warn("upstream cannot be asked; serving what is known",
		zap.String("repository", p.scope), zap.String("tag", tag), zap.Error(err))
	return old, statusStale, nil
}

// ask asks what a tag stands for.
func (p *repository) ask(ctx context.Context, tag string) (index.Ref, error) {
	desc, err := p.confirm(ctx, tag)
	if err != nil {
		return index.Ref{}, err
	}
	return index.Ref{Digest: desc.Digest, MediaType: desc.MediaType, Size: desc.Size, Checked: time.Now()}, nil
}

// freshRef is what somebody else may have learnt since the caller looked.
func (p *repository) freshRef(ctx context.Context, tag string) (index.Ref, bool) {
	ref, err := p.index.Ref(ctx, p.scope, tag)
	return ref, err == nil && time.Since(ref.Checked) < p.freshFor
}

// askFirst asks about a tag that is not known.
func (p *repository) askFirst(ctx context.Context, tag string) (index.Ref, error) {
	if ref, ok := p.freshRef(ctx, tag); ok {
		return ref, nil
	}
	ref, err := p.ask(ctx, tag)
	if err == nil {
		p.setRef(ctx, tag, ref)
	}
	return ref, err
}

// askAgain asks about a tag that is known. A tag that has moved is believed
// only once its new content is here: until then the old image is the one that
// can be pulled.
func (p *repository) askAgain(ctx context.Context, tag string, old index.Ref) (index.Ref, error) {
	if ref, ok := p.freshRef(ctx, tag); ok {
		return ref, nil
	}
	ref, err := p.ask(ctx, tag)
	if err == nil && ref.Digest != old.Digest {
		var moved *body
		moved, _, err = p.content(ctx, ref.Digest, p.linkedType(ctx, ref))
		moved.close()
	}
	if err == nil {
		p.setRef(ctx, tag, ref)
		return ref, nil
	}
	hold := staleHold
	var up *upstream.Error
	if errors.As(err, &up) {
		hold = min(max(hold, up.RetryAfter), maxStaleHold)
	}
	old.NotBefore = time.Now().Add(hold)
	p.setRef(ctx, tag, old)
	return old, err
}
