package memo

import (
	"context"
	"time"
)

// Background is the context of work that several requests wait for.
func Background(ctx context.Context, limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), limit)
}
