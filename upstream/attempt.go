package upstream

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// attempts is the way of one question through the addresses of [Mirrors].
type attempts struct {
	mirrors  *Mirrors
	deadline time.Time // for the header of the answer
	next     int       // index of the next address
	errs     []error   // of the addresses that did not answer, nil for the others
	passed   []int     // the addresses that pause after a response
	negative bool      // an address has answered that it does not have what is asked for
}

// attempt is a question to one address.
type attempt struct {
	registry *Registry
	index    int // of the registry
	turn     turn
	limit    time.Duration // for the header of the answer
}

// inOrder asks the addresses until one answers. The function ask must keep the limit
// of the attempt.
func inOrder[T any](ctx context.Context, m *Mirrors, ask func(*attempt) (T, error)) (T, error) {
	all := &attempts{mirrors: m, deadline: time.Now().Add(metadataTimeout), errs: make([]error, len(m.registries))}
	for a := all.first(); a != nil; a = all.following() {
		answer, err := ask(a)
		if a.settle(err); all.final(ctx, a, err) {
			return answer, err
		}
	}
	var none T
	return none, all.failure()
}

// first returns the attempt at the first address that does not pause. If there is
// none, it returns one at the address whose pause ends first.
func (all *attempts) first() *attempt {
	if a := all.following(); a != nil {
		return a
	}
	registries := all.mirrors.registries
	soonest := 0
	for i, r := range registries {
		if r.pause.ends().Before(registries[soonest].pause.ends()) {
			soonest = i
		}
	}
	all.passed = slices.DeleteFunc(all.passed, func(i int) bool { return i == soonest })
	return all.attempt(soonest, registries[soonest].pause.force())
}

// following returns the attempt at the next address that does not pause. If a later
// one does not have what is asked for, those follow that pause after a response: it may
// have been about another repository, and they respond at once. Without any, following
// returns nil.
func (all *attempts) following() *attempt {
	for all.next < len(all.mirrors.registries) {
		i, r := all.next, all.mirrors.registries[all.next]
		all.next++
		t, paused := r.pause.take(r.now())
		if paused == nil {
			return all.attempt(i, t)
		}
		all.errs[i] = paused
		if paused.Kind == Unavailable && paused.Status != 0 {
			all.passed = append(all.passed, i)
		}
	}
	if all.negative && len(all.passed) > 0 {
		i := all.passed[0]
		all.passed = all.passed[1:]
		return all.attempt(i, all.mirrors.registries[i].pause.force())
	}
	return nil
}

// attempt returns an attempt that leaves time for the addresses after it.
func (all *attempts) attempt(index int, t turn) *attempt {
	share := time.Duration(1)
	for _, r := range all.mirrors.registries[all.next:] {
		if !r.now().Before(r.pause.ends()) {
			share++
		}
	}
	limit := (time.Until(all.deadline) / share).Round(time.Millisecond)
	return &attempt{all.mirrors.registries[index], index, t, limit}
}

// final reports whether the result of an attempt ends the search. If it does not,
// final keeps the error.
func (all *attempts) final(ctx context.Context, a *attempt, err error) bool {
	failed := func(err error) bool { return err != nil }
	switch kind := KindOf(err); {
	case err == nil, kind == Other, ctx.Err() != nil:
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

// isOutage reports whether an error of a kind means that an address cannot answer.
func isOutage(kind Kind) bool { return kind == Unavailable || kind == Timeout || kind == RateLimited }

// settle records the result of an attempt for the attempts that follow.
func (a *attempt) settle(err error) {
	r := a.registry
	switch kind := KindOf(err); {
	case err != nil && kind == Other:
		r.pause.returned(a.turn, r.now())
	case isOutage(kind):
		var e *Error
		errors.As(err, &e)
		a.fail(e)
	default:
		r.pause.answered()
	}
}

// fail makes the address pause.
func (a *attempt) fail(e *Error) {
	r := a.registry
	if length := r.pause.failed(a.turn, e, r.now()); length > 0 && r.hooks.Paused != nil {
		r.hooks.Paused(r.endpoint.Host, length, e)
	}
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
		a.fail(&Error{Kind: Timeout, upstream: a.registry.name, message: "the transfer stalled"})
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
			b.attempt.settle(err)
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
