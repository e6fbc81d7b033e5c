package fill

import (
	"context"
	"errors"
	"maps"
	"sync"
)

// ErrUnconfirmed is returned by Confirm of a [Claim] if the source's answer
// does not prove that the scope contains the content. The request then fetches
// the content itself, and shares no fill of another scope.
var ErrUnconfirmed = errors.New("the source's answer confirms nothing")

// errPlain ends a reader of ranges when bytes arrive that anyone on the way may
// have written.
var errPlain = errors.New("a range that came over plain HTTP cannot be verified")

// Claim decides whether a scope may have content. The cache asks it before it
// hands out content that the request has not fetched itself, and reports to it
// what the scope's source has delivered.
type Claim interface {
	// Standing returns what is known without asking the source. It may be
	// called several times for one request.
	Standing(ctx context.Context) Standing

	// Confirm asks the source whether the scope contains the content. Size is
	// its size in bytes, or -1 if it is not known. The error is the source's or
	// [ErrUnconfirmed].
	Confirm(ctx context.Context, size int64) error

	// Delivered records that the source has the content, of this size in bytes:
	// this request, or one whose fill it shared, has received all of it, and
	// the digest matches.
	Delivered(size int64)
}

// Standing describes the relation of a scope to content.
type Standing struct {
	// Linked is set if the scope contains the content.
	Linked bool

	// Delivered is set if the scope's source has delivered the content, to this
	// scope or to another one. Content that only other sources have delivered
	// is fetched as if it were not stored.
	Delivered bool

	// Size is the content's size in bytes, if Linked or Delivered is set.
	Size int64
}

func (r *Request) standing(ctx context.Context) Standing {
	if r.Claim == nil {
		return Standing{Linked: true, Size: r.Size}
	}
	return r.Claim.Standing(ctx)
}

// claims are the claims of the scopes that share a fill.
type claims struct {
	mu        sync.Mutex
	byScope   map[string]Claim
	delivered bool
	size      int64 // since then
}

func (c *claims) has(scope string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.byScope[scope]
	return ok
}

// add lets the requests of a scope have the content. If it has been delivered
// already, add reports that to the scope's claim.
func (c *claims) add(req Request) {
	c.mu.Lock()
	if c.byScope == nil {
		c.byScope = make(map[string]Claim)
	}
	c.byScope[req.Scope] = req.Claim
	delivered, size := c.delivered, c.size
	c.mu.Unlock()
	if delivered && req.Claim != nil {
		req.Claim.Delivered(size)
	}
}

// deliver reports to the claims that the content is verified. It must be called
// before the fill ends.
func (c *claims) deliver(size int64) {
	c.mu.Lock()
	c.delivered, c.size = true, size
	all := maps.Clone(c.byScope)
	c.mu.Unlock()
	for _, claim := range all {
		if claim != nil {
			claim.Delivered(size)
		}
	}
}

// admit lets a request follow another request's fill if both have the same
// scope, or if the request's source confirms the content for its scope too.
func (f *fill) admit(ctx context.Context, req Request, standing Standing) error {
	if standing.Linked || f.claims.has(req.Scope) {
		return nil
	}
	size := int64(-1) // the size that the fill's source has announced may be wrong
	if f.verified() {
		size = f.written
	}
	if err := req.Claim.Confirm(ctx, size); err != nil {
		return err
	}
	f.claims.add(req)
	return nil
}
