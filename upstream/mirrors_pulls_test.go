package upstream

import (
	"net/http"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

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
