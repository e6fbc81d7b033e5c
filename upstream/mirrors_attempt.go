package upstream

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/circuit"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/ratelimit"
)

// attempts performs one operation at the addresses of [Mirrors], one after the other.
type attempts struct {
	mirrors  *Mirrors
	deadline time.Time // for the header of the answer
	next     int       // index of the next address
	errs     []error   // of the addresses that did not answer, nil for the others
	passed   []int     // the addresses that pause after a response
	negative bool      // an address has answered that it does not have what is asked for
}

// attempt performs the operation at one address.
type attempt struct {
	registry *Registry
	index    int // of the registry
	turn     circuit.Turn
	limit    time.Duration // for the header of the answer
	only     bool          // the upstream has no other address
}

// inOrder calls ask for one address after another until one answers. Ask must respect the
// time limit of the attempt.
func inOrder[T any](ctx context.Context, m *Mirrors, ask func(*attempt) (T, error)) (T, error) {
	var none T
	all := &attempts{mirrors: m, deadline: time.Now().Add(metadataTimeout), errs: make([]error, len(m.registries))}
	for a := all.first(); a != nil; a = all.following() {
		if err := a.begin(ctx); err != nil {
			if all.final(ctx, a, err) {
				return none, err
			}
			continue
		}
		answer, err := ask(a)
		if a.settle(ctx, err); all.final(ctx, a, err) {
			return answer, err
		}
	}
	return none, all.failure()
}

// first returns the attempt at the first address that does not pause. If all pause, it
// returns one at the address whose pause ends first, leaving out those that are down or
// have said how long to wait. It returns nil if none remains, or if the upstream has a
// single address.
func (all *attempts) first() *attempt {
	if a := all.following(); a != nil {
		return a
	}
	registries := all.mirrors.registries
	soonest := -1
	for i, r := range registries {
		if !r.pause.IsStrict() && (soonest < 0 || r.pause.Ends().Before(registries[soonest].pause.Ends())) {
			soonest = i
		}
	}
	if soonest < 0 || len(registries) == 1 {
		return nil
	}
	all.passed = slices.DeleteFunc(all.passed, func(i int) bool { return i == soonest })
	return all.attempt(soonest, registries[soonest].pause.Force())
}

// following returns the attempt at the next address that does not pause, or nil. After
// the last one, if an address has answered that it does not have what is asked for, it
// returns attempts at addresses that pause because of an error response: the error may
// have been about another repository, and such an address responds at once.
func (all *attempts) following() *attempt {
	for all.next < len(all.mirrors.registries) {
		i, r := all.next, all.mirrors.registries[all.next]
		all.next++
		t, paused := r.pause.Take(r.now())
		if paused == nil {
			return all.attempt(i, t)
		}
		e := heldError(paused)
		all.errs[i] = e
		if e.Kind == Unavailable && e.Status != 0 {
			all.passed = append(all.passed, i)
		}
	}
	if all.negative && len(all.passed) > 0 {
		i := all.passed[0]
		all.passed = all.passed[1:]
		return all.attempt(i, all.mirrors.registries[i].pause.Force())
	}
	return nil
}

// attempt returns an attempt that leaves time for the addresses after it.
func (all *attempts) attempt(index int, t circuit.Turn) *attempt {
	share := time.Duration(1)
	for _, r := range all.mirrors.registries[all.next:] {
		if !r.now().Before(r.pause.Ends()) {
			share++
		}
	}
	limit := (time.Until(all.deadline) / share).Round(time.Millisecond)
	return &attempt{all.mirrors.registries[index], index, t, limit, len(all.mirrors.registries) == 1}
}

// final reports whether the result of an attempt ends the search. If it does not,
// final keeps the error.
func (all *attempts) final(ctx context.Context, a *attempt, err error) bool {
	failed := func(err error) bool { return err != nil }
	switch kind := KindOf(err); {
	case err == nil, kind == Other, ctx.Err() != nil, a.only, errors.Is(err, ratelimit.ErrNoPull):
		return true
	case !isOutage(kind) && !slices.ContainsFunc(all.errs[:a.index], failed):
		return true
	}
	all.errs[a.index] = err
	all.negative = all.negative || !isOutage(KindOf(err))
	return false
}

// failure returns the error of a search without an answer.
func (all *attempts) failure() error {
	if len(all.errs) == 1 {
		return all.errs[0]
	}
	e := &unansweredError{errs: all.errs}
	for _, r := range all.mirrors.registries {
		e.hosts = append(e.hosts, r.endpoint.Host)
	}
	return e
}

// unansweredError has the errors of all addresses. Its kind is that of the first.
type unansweredError struct {
	errs  []error
	hosts []string
}

func (e *unansweredError) Error() string {
	var b strings.Builder
	b.WriteString(e.errs[0].Error() + " (at " + e.hosts[0])
	for i, err := range e.errs[1:] {
		text := err.Error()
		if own := (*Error)(nil); errors.As(err, &own) {
			text = own.reason()
		}
		b.WriteString("; at " + e.hosts[i+1] + ": " + text)
	}
	return b.String() + ")"
}

func (e *unansweredError) Unwrap() []error { return e.errs }

// IsHeld reports whether an error means that nothing was sent to any address, because of
// [Error.Held].
func IsHeld(err error) bool {
	all := []error{err}
	if several := (*unansweredError)(nil); errors.As(err, &several) {
		all = several.errs
	}
	return !slices.ContainsFunc(all, func(err error) bool {
		var e *Error
		return !errors.As(err, &e) || !e.Held
	})
}

// settle records the result of an attempt for the attempts that follow.
func (a *attempt) settle(ctx context.Context, err error) {
	var e *Error
	switch {
	case err != nil && !errors.As(err, &e), err != nil && (e.Held || e.unsent || e.isForbidden()):
		a.registry.pause.Returned(a.turn, a.registry.now())
	case err != nil && a.isFailure(e):
		a.fail(ctx, e)
	case a.registry.pause.Answered(a.turn):
		a.registry.report(CameUp)
	}
}

// isFailure reports whether an error means that the address cannot answer. If the
// upstream has several addresses, every outage is a failure, and the others are asked. A
// single address counts as answering if only one repository fails, if something other
// than the registry fails, or if only pulls are limited.
func (a *attempt) isFailure(e *Error) bool {
	switch {
	case errors.Is(e, ratelimit.ErrNoPull):
		return false
	case !a.only:
		return isOutage(e.Kind)
	case e.Kind == RateLimited:
		return e.own && !e.pull
	}
	return e.ofEndpoint()
}

// fail makes the address pause. If one more failure would mean that the only address is
// down, a version check decides.
func (a *attempt) fail(ctx context.Context, e *Error) {
	if a.recordFailure(e) && a.only {
		a.checkVersion(ctx)
	}
}

// recordFailure makes the address pause, and reports whether another failure, at /v2/,
// would mean that it is down.
func (a *attempt) recordFailure(e *Error) (doubtful bool) {
	r := a.registry
	effect := r.pause.Failed(a.turn, e.failure(), r.now(), !a.only)
	if effect.Pause > 0 && r.hooks.Paused != nil {
		r.hooks.Paused(r.endpoint.Host, effect.Pause, e)
	}
	switch {
	case effect.WentDown:
		r.report(WentDown)
	case effect.CameUp:
		r.report(CameUp)
	}
	return effect.Doubtful
}

// blob opens a blob for [Mirrors.Blob].
func (a *attempt) blob(ctx context.Context, repository string, d digest.Digest, offset, length int64) (*Body, error) {
	// A deadline would also end the transfer of the body; the timer is stopped.
	own, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(a.limit, func() { cancel(timeoutError(a.limit)) })
	b, err := a.registry.Blob(own, repository, d, offset, length, "")
	timer.Stop()
	if err != nil {
		cancel(nil)
		a.noteStall(ctx)
		return nil, err
	}
	b.ETag = ""
	b.ReadCloser = &mirrorBody{ReadCloser: b.ReadCloser, ctx: ctx, cancel: cancel, attempt: a}
	return b, nil
}

// noteStall makes the address pause if the caller of a transfer has given up
// waiting for it.
func (a *attempt) noteStall(ctx context.Context) {
	if errors.Is(context.Cause(ctx), context.DeadlineExceeded) {
		a.recordFailure(&Error{Kind: Timeout, upstream: a.registry.name, message: "the transfer stalled"})
	}
}

// mirrorBody is the body of a blob from one of several addresses.
type mirrorBody struct {
	io.ReadCloser
	ctx     context.Context // of the caller
	cancel  context.CancelCauseFunc
	attempt *attempt
}

// Read implements [io.Reader].
func (b *mirrorBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		if b.attempt.noteStall(b.ctx); b.ctx.Err() == nil {
			b.attempt.settle(b.ctx, err)
		}
	}
	return n, err
}

// Close implements [io.Closer].
func (b *mirrorBody) Close() error {
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}
