package memo

import (
	"context"
	"time"
)

// Background returns a context for work that several requests wait for. It has
// the values of ctx but not its end, and ends after limit.
func Background(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), limit)
}
