package upstream

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/ratelimit"
)

// hubHeader is the header of Docker Hub's responses to requests for manifests.
func hubHeader(limit, remaining string) http.Header {
	return http.Header{"Ratelimit-Limit": {limit}, "Ratelimit-Remaining": {remaining}, "Docker-Ratelimit-Source": {"192.0.2.7"}}
}

// announce makes the registry send a header with each response.
func (s *single) announce(h http.Header) {
	s.up.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
		for name, values := range h {
			w.Header()[name] = values
		}
		return false
	})
}

func TestBudgetIsRead(t *testing.T) {
	s := newSingle(t)
	s.announce(hubHeader("100;w=21600", "76;w=21600"))
	if err := s.pull(t, "a"); err != nil {
		t.Fatal(err)
	}
	want := ratelimit.Budget{Limit: 100, Remaining: 76, Window: 6 * time.Hour, Source: "192.0.2.7", Seen: s.registry.now()}
	if got := s.States()[0].Budget; got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	s.announce(nil)
	s.pass(6*time.Hour - 1)
	if got := s.States()[0].Budget; got != want {
		t.Errorf("at the end of the window: got %+v, want %+v", got, want)
	}
	s.pass(1)
	if got := s.States()[0].Budget; got != (ratelimit.Budget{}) {
		t.Errorf("after the window: got %+v, want none", got)
	}
}

// TestBudgetLow checks that a scarce budget is reported once, and again after more was
// left.
func TestBudgetLow(t *testing.T) {
	s := newSingle(t)
	for _, step := range []struct {
		remaining string
		changes   int
	}{{"20", 0}, {"19", 1}, {"18", 1}, {"0", 1}, {"80", 1}, {"3", 2}} {
		s.announce(hubHeader("100;w=60", step.remaining))
		if err := s.pull(t, "a"); err != nil {
			t.Fatal(err)
		}
		if len(s.changes) != step.changes || step.changes > 0 && s.changes[step.changes-1] != BudgetLow {
			t.Errorf("%s remain: got changes %v, want %d", step.remaining, s.changes, step.changes)
		}
	}
	s.pass(time.Minute)
	if err := s.pull(t, "a"); err != nil || len(s.changes) != 3 {
		t.Errorf("in the next window: got changes %v, want another", s.changes)
	}
}

// TestLimitOfBlobStorage checks that only the registry itself tells the budget.
func TestLimitOfBlobStorage(t *testing.T) {
	s := newSingle(t, registrytest.WithBlobRedirect())
	s.up.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path == "/blob" {
			w.Header().Set("RateLimit-Limit", "10")
			w.Header().Set("RateLimit-Remaining", "1")
		}
		return false
	})
	b, err := s.Blob(t.Context(), "a", digest.FromString(strings.Repeat("a", 10_000)), 0, -1, "")
	if err != nil {
		t.Fatal(err)
	}
	_ = b.Close()
	if got := s.States()[0].Budget; got != (ratelimit.Budget{}) {
		t.Errorf("got %+v, want none", got)
	}
}

// TestLimitHoldsEverything checks that a 429 without a budget, as Docker Hub sends for
// its abuse limit, holds all requests of the login for as long as it demands.
func TestLimitHoldsEverything(t *testing.T) {
	for retryAfter, hold := range map[string]time.Duration{"": time.Second, "60": time.Minute, "3600": maxHold} {
		s := newSingle(t)
		other := client(t, s.up, withLogin)
		h := http.Header{"Content-Type": {"text/plain"}}
		if retryAfter != "" {
			h.Set("Retry-After", retryAfter)
		}
		s.up.Fail(registrytest.Failure{Status: http.StatusTooManyRequests, Header: h, Body: "Too Many Requests (HAP429).\n", Times: 1})
		e := wantKind(t, s.expectAsked(t, "the first request", "a", 1), RateLimited)
		if e.Limit != ratelimit.Abuse || e.Held || !strings.Contains(e.Error(), "abuse limit") {
			t.Errorf("got %v with limit %v, want the abuse limit", e, e.Limit)
		}
		for range 9 {
			if e := s.expectHeld(t, "the next requests", RateLimited); retryAfter != "" && e.RetryAfter != hold || e.Limit != ratelimit.Abuse {
				t.Errorf("Retry-After %q: got %v with RetryAfter %v, want %v", retryAfter, e, e.RetryAfter, hold)
			}
		}
		_, err := s.Blob(t.Context(), "a", digest.FromString("x"), 0, -1, "")
		if wantKind(t, err, RateLimited); s.up.Counts().BlobGet != 0 {
			t.Error("got a request for a blob, want none")
		}
		if state := s.States()[0]; state.Exceeded != ratelimit.Abuse || state.Down {
			t.Errorf("got state %+v, want the abuse limit", state)
		}
		if _, err := other.Manifest(t.Context(), "a", "1"); err != nil {
			t.Errorf("another login: got %v, want the manifest", err)
		}
		s.pass(hold)
		if err := s.expectAsked(t, "after Retry-After", "a", 1); err != nil {
			t.Error(err)
		}
		s.expect(t, "a rate limit", false)
	}
}

// TestLimitOfPulls checks that a 429 with a budget holds what counts as a pull, and
// nothing else.
func TestLimitOfPulls(t *testing.T) {
	s := newSingle(t)
	h := hubHeader("100;w=21600", "0;w=21600")
	h.Set("Retry-After", "60")
	s.up.Fail(registrytest.Failure{Op: registrytest.OpManifest, Method: http.MethodGet, Status: http.StatusTooManyRequests, Header: h, Body: `{"errors":[{"code":"TOOMANYREQUESTS"}]}`, Times: 1})
	get := func() error {
		_, err := s.Manifest(t.Context(), "a", "1")
		return err
	}
	e := wantKind(t, get(), RateLimited)
	if e.Limit != ratelimit.Pulls || e.Held || !strings.Contains(e.Error(), "pull limit exceeded: TOOMANYREQUESTS") {
		t.Errorf("got %v with limit %v, want the pull limit", e, e.Limit)
	}
	for range 9 {
		e := wantKind(t, get(), RateLimited)
		if !e.Held || e.RetryAfter != time.Minute {
			t.Errorf("got %v with RetryAfter %v, want it held for 1m", e, e.RetryAfter)
		}
	}
	if n := s.up.Counts().ManifestGet; n != 1 {
		t.Errorf("got %d pulls, want 1", n)
	}
	if err := s.expectAsked(t, "a HEAD", "b", 1); err != nil {
		t.Error(err)
	}
	b, err := s.Blob(t.Context(), "a", digest.FromString(strings.Repeat("a", 10_000)), 0, -1, "")
	if err != nil {
		t.Fatalf("a blob: got %v, want it", err)
	}
	_ = b.Close()
	state := s.States()[0]
	if got := state.PullsUntil.Sub(s.registry.now()); got != time.Minute || !state.Until.IsZero() {
		t.Errorf("got state %+v, want that pulls are held for 1m", state)
	}
	s.pass(time.Minute)
	if err := get(); err != nil {
		t.Errorf("got %v after Retry-After, want the manifest", err)
	}
}

// TestLimitOfLateAnswer checks that the answer to a request from before a 429 does not
// end its pause.
func TestLimitOfLateAnswer(t *testing.T) {
	s := newSingle(t)
	before := s.registry.pause.Force()
	s.up.Fail(registrytest.Failure{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"60"}}})
	_ = s.pull(t, "a")
	s.registry.pause.Answered(before)
	var e *Error
	if err := s.pull(t, "a"); !errors.As(err, &e) || !e.Held {
		t.Errorf("got %v, want that it was held", err)
	}
}
