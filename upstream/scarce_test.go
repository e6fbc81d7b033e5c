package upstream

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestPullQueue checks that permissions go to the waiter with the most uses, of equal ones
// to the first, and past those that have left.
func TestPullQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q pullQueue
		done, err := q.take(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		var order []float64
		leaving, leave := context.WithCancel(t.Context())
		for _, w := range []struct {
			ctx  context.Context
			uses float64
		}{{t.Context(), 1}, {leaving, 9}, {t.Context(), 5}, {t.Context(), 5.5}, {t.Context(), 1.5}} {
			go func() {
				done, err := q.take(w.ctx, w.uses)
				if err != nil {
					if !errors.Is(err, context.Canceled) {
						t.Errorf("got %v, want that the waiter has left", err)
					}
					return
				}
				order = append(order, w.uses) // one has the permission at a time
				done()
			}()
			synctest.Wait()
		}
		leave()
		synctest.Wait()
		if got := q.length(); got != 4 {
			t.Errorf("got %d waiters, want 4", got)
		}
		done()
		synctest.Wait()
		if len(order) != 4 || order[0] != 5.5 || order[1] != 5 || order[2] != 1.5 || order[3] != 1 {
			t.Errorf("got the order %v, want 5.5, 5, 1.5 and 1", order)
		}
		if done, err = q.take(t.Context(), 0); err != nil {
			t.Errorf("got %v, want the permission, which nobody has", err)
		}
		done()
	})
}

// TestPullQueueBounds checks that few wait, and not for longer than they may. That is no
// failure of the registry.
func TestPullQueueBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var q pullQueue
		done, err := q.take(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		results := make(chan error, maxPullWaiters)
		for range maxPullWaiters {
			go func() {
				_, err := q.take(ctx, 1)
				results <- err
			}()
		}
		synctest.Wait()
		if _, err := q.take(ctx, 100); !errors.Is(err, ErrNoPull) {
			t.Errorf("got %v while too many wait, want %v", err, ErrNoPull)
		}
		time.Sleep(time.Minute)
		for range maxPullWaiters {
			if err := <-results; !errors.Is(err, ErrNoPull) {
				t.Fatalf("got %v after a minute, want %v", err, ErrNoPull)
			}
		}
		if done(); q.length() != 0 || q.taken {
			t.Errorf("got %d waiters, want none", q.length())
		}
	})
}

// TestLimitOfPullsTrial checks that the first pull after a limit holds the others for as
// long as it takes, which is short, and that any answer to it ends the limit.
func TestLimitOfPullsTrial(t *testing.T) {
	s := newSingle(t)
	h := hubHeader("100;w=21600", "0;w=21600")
	h.Set("Retry-After", "60")
	s.up.Fail(registrytest.Failure{Op: registrytest.OpManifest, Method: http.MethodGet, Status: http.StatusTooManyRequests, Header: h, Times: 1})
	_, err := s.Manifest(t.Context(), "a", "1")
	wantKind(t, err, RateLimited)
	s.pass(time.Minute)
	arrived, release := make(chan struct{}), make(chan struct{})
	s.up.SetFault(func(w http.ResponseWriter, _ *http.Request) bool {
		close(arrived)
		<-release
		w.WriteHeader(http.StatusNotFound)
		return true
	})
	trial := make(chan error)
	go func() {
		_, err := s.Manifest(t.Context(), "a", "missing")
		trial <- err
	}()
	<-arrived
	_, err = s.Manifest(t.Context(), "b", "1")
	if e := wantKind(t, err, RateLimited); !e.Held || e.RetryAfter != time.Second {
		t.Errorf("got %v with RetryAfter %v during the trial, want it held for 1s", e, e.RetryAfter)
	}
	close(release)
	wantKind(t, <-trial, ManifestUnknown)
	if got := s.States()[0].PullsUntil; !got.IsZero() {
		t.Errorf("got a pause until %v after an answer, want none", got)
	}
}
