package pullthrough

import (
	"context"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/flight"
)

// Flights joins concurrent requests that would ask upstream the same question.
// Its zero value is ready for use.
type Flights struct {
	group singleflight.Group

	mu     sync.Mutex
	asked  map[string]time.Time          // when the questions in progress were asked
	forced *lru.Cache[string, time.Time] // when the last forced questions were asked
}

const (
	// forcedInterval is the least time between two forced questions about a tag. It bounds
	// the requests that a client can cause, because upstream may limit them.
	forcedInterval = time.Second

	// maxForced is how many forced questions are remembered.
	maxForced = 1024
)

// begin records that a question is in progress until done is called.
func (f *Flights) begin(key string) (done func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.asked == nil {
		f.asked = make(map[string]time.Time)
	}
	f.asked[key] = time.Now()
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.asked, key)
	}
}

// since returns when a question that is in progress was asked, or the present time if it
// is not in progress.
func (f *Flights) since(key string) time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	if at, ok := f.asked[key]; ok {
		return at
	}
	return time.Now()
}

// pace waits until a forced question may be asked.
func (f *Flights) pace(ctx context.Context, key string) error {
	timer := time.NewTimer(f.forcedIn(key))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// forcedIn returns the time until a forced question may be asked, and records that it is
// asked then.
func (f *Flights) forcedIn(key string) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.forced == nil {
		var err error
		if f.forced, err = lru.New[string, time.Time](maxForced); err != nil {
			panic(err) // the size is a positive constant
		}
	}
	at := time.Now()
	if last, ok := f.forced.Get(key); ok && at.Before(last.Add(forcedInterval)) {
		at = last.Add(forcedInterval)
	}
	f.forced.Add(key, at)
	return time.Until(at)
}

// metadataLimit bounds a question to upstream that several requests wait for. It
// does not end when one of them leaves.
const metadataLimit = time.Minute

// purgedAt returns when the repository was last purged, as far as is known, or the zero time.
func (r *Repository) purgedAt() time.Time { return r.config.Index.PurgedAt(r.config.Scope) }

// since returns a text that differs for each repository and for the time since each of its
// purges. Requests from before and after a purge share no question and no download, because
// the answer may be older than the purge.
func (r *Repository) since(purged time.Time) string {
	if purged.IsZero() {
		return r.config.Scope
	}
	return r.config.Scope + " " + purged.Format(time.RFC3339Nano)
}

// key returns the key of a question in Config.Flights.
func (r *Repository) key(question string) string { return r.since(r.purgedAt()) + " " + question }

// askedKey is the key of a value in the context of a question: the time of the last purge
// before it was asked.
type askedKey struct{}

func askedSince(ctx context.Context, purged time.Time) context.Context {
	return context.WithValue(ctx, askedKey{}, purged)
}

// isPurged reports whether the repository has been purged since the question of ctx was
// asked. The answer is then returned to the requests that wait for it, and not recorded.
func (r *Repository) isPurged(ctx context.Context) bool {
	before, asked := ctx.Value(askedKey{}).(time.Time)
	return asked && !r.purgedAt().Equal(before)
}

// once runs ask for all concurrent callers that name the same question about the
// repository. It returns early, with the cause, if ctx ends.
func once[T any](ctx context.Context, r *Repository, question string, ask func(context.Context) (T, error)) (T, error) {
	if ctx.Err() != nil {
		var none T
		return none, context.Cause(ctx) // upstream is not asked for a client that has left
	}
	purged := r.purgedAt()
	key := r.since(purged) + " " + question
	return flight.Do(ctx, &r.config.Flights.group, key, func(ctx context.Context) (T, error) {
		defer r.config.Flights.begin(key)()
		ctx, cancel := context.WithTimeout(askedSince(ctx, purged), metadataLimit)
		defer cancel()
		return ask(ctx)
	})
}
