package upstream

import (
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
)

// TestBreakerTrialOfSlowRegistry checks that a request does not wait long for a trial, and
// that a slow registry is found to be up all the same.
func TestBreakerTrialOfSlowRegistry(t *testing.T) {
	s := newSingle(t)
	s.beDown(t)
	synctest.Test(t, func(t *testing.T) {
		var asked atomic.Int32
		release := make(chan struct{})
		s.registry.transport = roundTripper(func(r *http.Request) (*http.Response, error) {
			asked.Add(1)
			<-release
			return &http.Response{StatusCode: http.StatusOK, ContentLength: 2, Body: http.NoBody, Request: r, Header: http.Header{
				"Content-Type": {dockerManifest}, "Docker-Content-Digest": {digest.FromString("{}").String()}}}, nil
		})
		begin := time.Now()
		for i := range 2 { // the second one at once
			e := wantKind(t, s.pull(t, "a"), Unavailable)
			if took := time.Since(begin); !e.Held || took != trialPatience || asked.Load() != 1 {
				t.Errorf("request %d: got %v at %v after %d requests, want that it was held at %v after one", i, e, took, asked.Load(), trialPatience)
			}
		}
		close(release)
		synctest.Wait() // until the result is known
		if err := s.pull(t, "a"); err != nil || asked.Load() != 2 {
			t.Errorf("after the version check: got %v and %d requests, want one more", err, asked.Load())
		}
	})
	s.expect(t, "after an answer", false, WentDown, CameUp)
}
