package upstream

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestBreakerFailingRepository checks that one repository that fails does not count
// unless the version check fails too.
func TestBreakerFailingRepository(t *testing.T) {
	s := newSingle(t)
	s.up.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
		fails := strings.HasPrefix(req.URL.Path, "/v2/a/")
		if fails {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return fails
	})
	for range 10 {
		wantKind(t, s.pull(t, "a"), Unavailable)
	}
	s.expect(t, "one repository fails", false)
	if n := s.up.Counts().Ping; n != 1 {
		t.Errorf("got %d version checks, want 1", n)
	}
	s.registry.probes = newProbes() // probePeriod is over
	s.up.Heal()
	s.up.Fail(registrytest.Failure{Status: http.StatusServiceUnavailable})
	wantKind(t, s.pull(t, "a"), Unavailable)
	s.expect(t, "the version check fails too", true, WentDown)
}

// TestBreakerIgnores checks what says nothing about the endpoint as a whole, although
// each repository fails.
func TestBreakerIgnores(t *testing.T) {
	for _, status := range []int{400, 401, 403, 404, 408, 500, 501} {
		s := newSingle(t)
		s.up.Fail(registrytest.Failure{Op: registrytest.OpManifest, Status: status})
		for range 3 {
			_ = s.pull(t, "a", "b", "c")
		}
		if s.expect(t, fmt.Sprint(status), false); s.expectAsked(t, fmt.Sprint(status), "a", 1+gets(status)) == nil {
			t.Errorf("%d: got no error", status)
		}
	}
}

// gets returns how many GETs follow a HEAD with a status.
func gets(status int) int {
	if status == http.StatusRequestTimeout || status == http.StatusNotFound || status == http.StatusUnauthorized || status == http.StatusForbidden {
		return 0
	}
	return 1
}

// TestBreakerHead checks that a GET decides where HEAD fails.
func TestBreakerHead(t *testing.T) {
	s := newSingle(t)
	s.up.Fail(registrytest.Failure{Method: http.MethodHead, Status: http.StatusServiceUnavailable})
	for range 5 {
		_ = s.pull(t, "a", "b")
	}
	s.expect(t, "only HEAD fails", false)
	if n := s.up.Counts().ManifestGet; n == 0 {
		t.Error("got no GET, want one that decides")
	}
}

// TestBreakerStorageFails checks that the server to which a registry redirects does not
// count.
func TestBreakerStorageFails(t *testing.T) {
	s := newSingle(t, registrytest.WithBlobRedirect())
	s.up.Fail(registrytest.Failure{Op: registrytest.OpStorage, Status: http.StatusServiceUnavailable})
	for range 2 {
		for _, repository := range []string{"a", "b", "c"} {
			_, err := s.Blob(t.Context(), repository, digest.FromString(strings.Repeat(repository, 10_000)), 0, -1, "")
			wantKind(t, err, Unavailable)
		}
	}
	s.expect(t, "the storage fails", false)
}

// TestBreakerEndsByRateLimit checks that a registry that was down and limits requests is
// up, and that a 429 between failures ends their row.
func TestBreakerEndsByRateLimit(t *testing.T) {
	s := newSingle(t)
	limit := registrytest.Failure{Op: registrytest.OpManifest, Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"90"}}, Times: 1}
	s.beDown(t)
	s.up.Fail(limit)
	wantKind(t, s.pull(t, "a"), RateLimited)
	s.expect(t, "at the rate limit", false, WentDown, CameUp)
	if e := s.expectHeld(t, "at the rate limit", RateLimited); strings.Contains(e.Error(), "does not answer") {
		t.Errorf("got %v, want an error about the rate limit", e)
	}
	s.pass(90 * time.Second)
	s.up.Heal()
	if err := s.pull(t, "a"); err != nil {
		t.Errorf("got %v after Retry-After, want the manifest", err)
	}
	s.up.Fail(registrytest.Failure{Status: http.StatusBadGateway, Times: 2})
	wantKind(t, s.pull(t, "a", "b"), Unavailable)
	s.up.Fail(limit)
	wantKind(t, s.pull(t, "c"), RateLimited)
	s.pass(90 * time.Second)
	s.up.Fail(registrytest.Failure{Status: http.StatusBadGateway, Times: 1})
	wantKind(t, s.pull(t, "c"), Unavailable)
	s.expect(t, "after failures that were not in a row", false, WentDown, CameUp)
}

// TestLimitEndsByFailingRepository checks that a repository that fails right after a rate
// limit does not hold the others.
func TestLimitEndsByFailingRepository(t *testing.T) {
	s := newSingle(t)
	s.up.Fail(registrytest.Failure{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"5"}}, Times: 1})
	wantKind(t, s.pull(t, "a"), RateLimited)
	s.pass(5 * time.Second)
	s.up.Fail(registrytest.Failure{Status: http.StatusServiceUnavailable, Times: 1})
	wantKind(t, s.pull(t, "a"), Unavailable)
	if err := s.pull(t, "b"); err != nil {
		t.Errorf("got %v, want the manifest", err)
	}
}
