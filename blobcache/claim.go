package blobcache

import (
	"context"
	"errors"
	"maps"
	"sync"
)

// ErrUnconfirmed is what Confirm of a [Claim] returns if the source's answer
// confirms nothing, so that only the content itself can tell: the request then
// fetches it alone.
var ErrUnconfirmed = errors.New("the source's answer confirms nothing")

// errPlain ends a reader of parts when bytes arrive that anybody on the way may
// have written.
var errPlain = errors.New("a part that came over plain HTTP cannot be verified")

// Claim decides whether a scope may have some content. The cache asks it before it
// hands out anything that the request has not fetched itself, and tells it what the
// scope's source has delivered.
type Claim interface {
	// Standing returns what is known without asking the source. It may be
	// called several times for a request.
	Standing(ctx context.Context) Standing

	// Confirm asks the source whether the scope contains the content, of a
	// size in bytes, -1 if that is not known. An error is the source's own or
	// [ErrUnconfirmed].
	Confirm(ctx context.Context, size int64) error

	// Delivered records that the source has the content, of this size: the
	// request, or one whose fill it shared, has brought all of it, and the
	// digest matches.
	Delivered(size int64)
}

// Standing is what is known of a scope and some content.
type Standing struct {
	// Linked says that the scope contains the content.
	Linked bool

	// Delivered says that the scope's source has delivered the content, for
	// this scope or for another one. Stored content of other sources
	// does not count: the content is fetched as if it were not stored.
	Delivered bool

	// Size is that of the content in bytes, if either is so.
	Size int64
}

func (r *Request) standing(ctx context.Context) Standing {
	if r.Claim == nil {
		return Standing{Linked: true, Size: r.Size}
	}
	return r.Claim.Standing(ctx)
}

// claims are those of the scopes that share a fill.
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

// add lets the requests of a scope have the content. Its claim hears of the
// delivery, also if that was before.
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

// deliver tells the claims that the content is verified. It must be recorded before
// the fill ends.
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

// admit lets a request follow another one's fill: if their scope is the same, or
// the request's source confirms the content for its scope too.
func (f *fill) admit(ctx context.Context, req Request, standing Standing) error {
	if standing.Linked || f.claims.has(req.Scope) {
		return nil
	}
	size := int64(-1) // the size that the other request's source has told proves nothing
	if f.verified() {
		size = f.written
	}
	if err := req.Claim.Confirm(ctx, size); err != nil {
		return err
	}
	f.claims.add(req)
	return nil
}
