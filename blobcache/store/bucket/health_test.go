package bucket

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// failing returns the health of a bucket that fails many requests at the same time.
func failing() *health {
	h := newHealth(Config{}.withDefaults().waits, func(error) {})
	for range 12 {
		h.note(context.Background(), "first", errors.New("connection refused"))
	}
	return h
}

// wait waits until the bucket may be asked for an object. It reports false if ctx ends first.
func (h *health) wait(ctx context.Context, name string) bool {
	for h.check(name) != nil && ctx.Err() == nil {
		h.breaker.Sleep(ctx, nil)
	}
	return ctx.Err() == nil
}

// TestHealthCountsOutages checks that the pause after an outage does not depend on the
// number of requests that failed in it, and grows with each further failure.
func TestHealthCountsOutages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := failing()
		for _, want := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
			began := time.Now()
			if !h.wait(t.Context(), "second") {
				t.Fatal("wait reports an end")
			}
			if took := time.Since(began); took != want*time.Second {
				t.Errorf("waited %v, want %v", took, want*time.Second)
			}
			for range 3 { // the one that was allowed, and two that began before
				h.note(t.Context(), "second", errors.New("connection refused"))
			}
		}
	})
}

// TestHealthWakesAll checks that all that wait go on when one of them has succeeded.
func TestHealthWakesAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := failing()
		began := time.Now()
		done := make(chan time.Duration, 12)
		for range cap(done) {
			go func() {
				if !h.wait(t.Context(), "second") {
					t.Error("wait reports an end")
				}
				h.note(t.Context(), "second", nil)
				done <- time.Since(began)
			}()
		}
		for range cap(done) {
			if took := <-done; took != time.Second {
				t.Errorf("one went on after %v, want %v", took, time.Second)
			}
		}
	})
}

// TestHealthWaitEnds checks that wait ends with its context.
func TestHealthWaitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if failing().wait(ctx, "second") {
			t.Error("wait reports that the bucket may be asked")
		}
	})
}

var errInternal = &refusal{status: http.StatusInternalServerError, code: "InternalError"}

// TestHealthOfOneObject checks that one object that fails does not make others wait, that two
// do, and that an object is to blame if it fails again while others succeed.
func TestHealthOfOneObject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := 0
		h := newHealth(Config{}.withDefaults().waits, func(error) { began++ })
		if h.note(t.Context(), "bad", errInternal) || h.check("bad") == nil || h.check("other") != nil {
			t.Error("after a failure of one object: it is to blame, it is not left alone, or others are, want none of these")
		}
		if h.note(t.Context(), "other", errInternal) || h.check("third") == nil {
			t.Error("after failures of two objects: a third one is asked for, want that it is not")
		}
		for range 3 {
			h.note(t.Context(), "other", nil)
			if !h.note(t.Context(), "bad", errInternal) || h.isFailing() {
				t.Error("another failure of the object counts as one of the bucket, want that it does not")
			}
		}
		h.note(t.Context(), "bad", nil)
		if h.note(t.Context(), "bad", errInternal) || began != 2 {
			t.Errorf("a failure after a success: the object is to blame at once, or the bucket began to fail %d times, want 2", began)
		}
	})
}

// TestHealthBlamesSlowly checks that requests to slow down and timeouts count as failures of
// the bucket, until an object has had them again and again while others succeed, and that
// refused credentials always do.
func TestHealthBlamesSlowly(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		want int // failures for which the bucket is to blame
	}{
		"slow down": {&refusal{status: http.StatusServiceUnavailable, code: "SlowDown"}, vagueStrikes},
		"no answer": {context.DeadlineExceeded, vagueStrikes},
		"refused":   {&refusal{status: http.StatusForbidden, code: "InvalidAccessKeyId"}, 10},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHealth(Config{}.withDefaults().waits, func(error) {})
			failures := 0
			for ; failures < 10 && !h.note(t.Context(), "object", test.err); failures++ {
				if h.check("other") == nil {
					t.Fatal("another object is asked for during the pause, want that it is not")
				}
				h.note(t.Context(), "other", nil)
			}
			if failures != test.want {
				t.Errorf("the bucket was to blame %d times, want %d", failures, test.want)
			}
		})
	}
}

// TestStoreReadsOthers checks that others can be read while the bucket fails for one object,
// also if that is asked for again and again.
func TestStoreReadsOthers(t *testing.T) {
	server := s3test.New(t)
	config := configOf(t, server, t.TempDir())
	config.waits.pause, config.waits.maxPause = time.Hour, time.Hour
	n := start(t, config)
	bad, good := digest.FromString("bad"), digest.FromString("good")
	server.Put(objectOf(bad), []byte("bad"))
	server.Put(objectOf(good), []byte("good"))
	server.Set(s3test.Faults{Status: 500, Code: "InternalError", Only: bad.Encoded()})
	for range 3 {
		if _, _, err := fetchAll(t, n, bad, 0, -1); err == nil || errors.Is(err, ErrPaused) {
			t.Errorf("the object that fails: got %v, want its own error", err)
		}
		if got, _, err := fetchAll(t, n, good, 0, -1); got != "good" || err != nil {
			t.Errorf("another one: got %q, %v, want its content", got, err)
		}
	}
	if status := n.Status(); status.ReadError != nil {
		t.Errorf("the status has the error %v of reads, want none", status.ReadError)
	}
	if got := strings.Count(n.reported(), "read "+blobName(bad)); got != 1 {
		t.Errorf("the object is reported %d times, want once a minute: %q", got, n.reported())
	}
}
