package pullthrough

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// loopPatience is how long a request that another proxy has sent waits for upstream
// before it asks whether upstream leads back to this proxy.
const loopPatience = 2 * time.Second

// watchLoop returns a context that ends with an error of kind [upstream.Loop] if a
// request that another proxy has sent waits for upstream, and upstream leads back to
// this proxy. The caller must call stop when it waits no longer; the context does not
// end after that.
//
// Requests usually reveal a loop by their own Via. But if two proxies are each other's
// upstream and get the same request at the same moment, each lets the request of the
// other wait for the one that it has sent itself, and both would wait until a time limit.
// So a request that waits sends one of its own: it calls ask, which must ask upstream
// about the same content. Requests that have passed the same number of proxies share it.
// Thus all proxies behind this one cause one more request, and in a longer loop that
// request does not wait for itself.
func watchLoop[T any](ctx context.Context, r *Repository, about string, ask func(context.Context) (T, error)) (_ context.Context, stop func()) {
	passed := upstream.Passed(ctx)
	if passed == 0 {
		return ctx, func() {}
	}
	watched, end := context.WithCancelCause(ctx)
	asking, leave := context.WithCancel(ctx)
	var decide sync.Once
	timer := time.AfterFunc(loopPatience, func() {
		_, err := once(asking, r, fmt.Sprintf("loop %d %s", passed, about), func(ctx context.Context) (T, error) {
			return inTurn(ctx, r, func() (T, error) { return ask(ctx) })
		})
		if upstream.KindOf(err) == upstream.Loop {
			decide.Do(func() { end(err) })
		}
	})
	return watched, func() {
		timer.Stop()
		leave()
		decide.Do(func() {})
	}
}
