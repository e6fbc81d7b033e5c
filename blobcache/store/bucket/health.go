package bucket

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/breaker"
)

// ErrPaused means that the bucket was not asked, because it has just failed.
var ErrPaused = breaker.ErrOpen

// health decides when a bucket that fails is asked again. Reads and writes have one
// each, since a bucket that is full or read-only can still be read. One object that fails
// does not keep others from being asked for.
type health struct {
	breaker breaker.Breaker
	failed  func(error) // called when the bucket begins to fail

	mu        sync.Mutex                 // of what follows
	successes int                        // so far
	strikes   *lru.Cache[string, strike] // of the objects that have failed last
	suspect   string                     // an object that has failed since the last success, perhaps by its own fault
	several   bool                       // others have failed too, or the failure is that of the bucket
}

// strike is what is known of an object that has failed.
type strike struct {
	n         int // failures with a success of others since the failure before
	successes int // of all objects, up to its last failure
}

const (
	// strikeEntries is the number of objects whose failures are remembered.
	strikeEntries = 1 << 10

	// vagueStrikes is the number of strikes after which an object is to blame for
	// failures that are usually those of the bucket: timeouts, and requests to slow down.
	vagueStrikes = 4
)

func newHealth(w waits, failed func(error)) *health {
	strikes, err := lru.New[string, strike](strikeEntries)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	return &health{breaker: breaker.Breaker{Pause: w.pause, MaxPause: w.maxPause}, failed: failed, strikes: strikes}
}

// check returns an ErrPaused unless the bucket may be asked for an object now. After a
// pause one caller asks, and the others wait for another pause or for its success. If
// only one object has failed, the bucket may be asked for others at once.
func (h *health) check(name string) error {
	err := h.breaker.Allow()
	if err == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.suspect != "" && h.suspect != name && !h.several {
		return nil
	}
	return fmt.Errorf("the bucket is not asked: %w", err)
}

// note records the result of a request for an object. Errors that concern one object, and
// those of callers that left, say nothing about the bucket. If it is denied, that may
// concern some objects only, so the pauses stay short. Note reports whether the object
// alone is to blame for an error of the bucket, because it fails again and again while
// others succeed.
func (h *health) note(ctx context.Context, name string, err error) (own bool) {
	answered := err == nil || errors.As(err, new(*refusal)) && !concernsBucket(err)
	first := false
	switch {
	case answered:
		h.forgive(name)
		h.breaker.Succeed()
	case ctx.Err() != nil || !concernsBucket(err):
	case h.blames(name, err):
		return true
	case isDenied(err):
		first = h.breaker.FailBriefly(err)
	default:
		first = h.breaker.Fail(err)
	}
	if first {
		h.failed(err)
	}
	return false
}

func (h *health) forgive(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.successes++
	h.strikes.Remove(name)
	h.suspect, h.several = "", false
}

// blames records that an object has failed, and reports whether it is to blame.
func (h *health) blames(name string, err error) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	limit := strikesFor(err)
	if limit == 0 {
		h.several = true
		return false
	}
	known, ok := h.strikes.Get(name)
	if ok && known.successes != h.successes {
		known.n++
	}
	known.successes = h.successes
	h.strikes.Add(name, known)
	if known.n >= limit {
		return true
	}
	h.several = h.several || limit > 1 || h.suspect != "" && h.suspect != name
	h.suspect = name
	return false
}

// strikesFor returns the number of strikes after which an object is to blame for an
// error, or 0 if no object ever is.
func strikesFor(err error) int {
	answer := &refusal{}
	switch {
	case !errors.As(err, &answer):
		return vagueStrikes
	case answer.status == http.StatusServiceUnavailable, answer.status == http.StatusTooManyRequests:
		return vagueStrikes
	case answer.status < 500:
		return 0 // the credentials are refused, or the bucket does not exist
	}
	return 1
}

// isDown reports whether the bucket has failed for a while.
func (h *health) isDown() bool {
	s := h.breaker.State()
	return s.Failures >= stuckAfter || s.Failures > 0 && time.Since(s.Since) > stuckAfter*h.breaker.Pause
}

// isFailing reports whether the bucket has failed since its last success.
func (h *health) isFailing() bool { return h.breaker.State().Failures > 0 }

// state returns when the bucket began to fail, and its last failure, or zeros.
func (h *health) state() (since time.Time, err error) {
	s := h.breaker.State()
	return s.Since, s.Err
}

// GivenUp records that a caller of [Store.Fetch] gave up the body of d because it was too
// slow or broke off. The bucket is then left alone for a while.
func (s *Store) GivenUp(d digest.Digest, err error) {
	s.noteRead(context.Background(), blobName(d), err)
}

// noteRead records the result of a read of an object, and reports the object to the log if it
// is to blame.
func (s *Store) noteRead(ctx context.Context, name string, err error) {
	if s.reads.note(ctx, name, err) {
		s.reportObject(name, err)
	}
}

// reportObject reports an object that is damaged, forged or always fails to the log, at most
// one a minute, because there may be many.
func (s *Store) reportObject(name string, err error) {
	if now, last := time.Now().Unix(), s.objectReported.Load(); now-last >= 60 && s.objectReported.CompareAndSwap(last, now) {
		s.config.StorageError("read "+name+" from the bucket", err)
	}
}

// noteShortRead is noteRead for a read that must end with ctx.
func (s *Store) noteShortRead(ctx context.Context, name string, err error) {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		ctx, err = context.WithoutCancel(ctx), ctx.Err() // the bucket is too slow
	}
	s.noteRead(ctx, name, err)
}
