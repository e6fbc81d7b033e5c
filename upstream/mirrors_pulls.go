package upstream

import (
	"context"
	"errors"
	"net/http"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/ratelimit"
)

// Scarcity returns how scarce the budget of the first address is, as described at
// [ratelimit.Budget.Scarcity].
func (m *Mirrors) Scarcity() float64 {
	r := m.registries[0]
	return r.budget.Scarcity(r.now)
}

// AwaitPull waits for permission to spend a part of a scarce budget on an image of which an
// earlier version could be served. One caller has the permission at a time; the next one is
// the caller whose image is used most. The errors are those of [ratelimit.Queue.Take]. The
// caller must call done when it has spent what it needs.
func (m *Mirrors) AwaitPull(ctx context.Context, uses float64) (done func(), err error) {
	return m.registries[0].queue.Take(ctx, uses)
}

// recordBudget records the budget in the header of a response of the registry, if there
// is one.
func (r *Registry) recordBudget(h http.Header) {
	if b, ok := ratelimit.Parse(h, r.now()); ok && r.budget.Set(b) {
		r.report(BudgetLow)
	}
}

// pull sends a GET that counts as a pull, unless the budget is used up, and returns a
// response with status 200.
func (r *Registry) pull(ctx context.Context, c *call) (*response, error) {
	turn, held := r.pulls.Take(r.now())
	if held != nil {
		e := heldError(held)
		e.repository, e.pull = c.repository, true
		return nil, e
	}
	resp, err := r.get(ctx, c)
	var e *Error
	switch {
	case err == nil:
		r.pulls.Answered(turn)
		return resp, nil
	case errors.As(err, &e) && e.own && e.Limit == ratelimit.Pulls:
		e.pull = true
		r.pulls.Failed(turn, e.failure(), r.now(), true)
	case errors.As(err, &e) && e.own && e.Status == http.StatusNotFound:
		r.pulls.Answered(turn)
	default:
		r.pulls.Returned(turn, r.now())
	}
	return nil, err
}
