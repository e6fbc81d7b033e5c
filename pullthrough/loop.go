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
// Usually, the Via header of a request reveals a loop. But if two proxies are each other's
// upstream and get the same request at the same moment, each makes the other's request
// wait for the one that it has sent itself, and both would wait until a time limit. To
// find that out, watchLoop calls ask after loopPatience, which must send another request
// about the same content to upstream. Requests that have passed the same number of proxies
// share one call. So many proxies that ask this one cause a single request more, and in a
// longer loop, which that request passes again, it does not wait for itself.
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
