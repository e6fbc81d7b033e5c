package upstream

import (
	"context"
	"errors"
	"net/http"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/auth"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/ratelimit"
)

// head asks for the manifest of a tag by HEAD alone in each repository, and returns the
// last error.
func (s *single) head(t *testing.T, repositories ...string) (err error) {
	t.Helper()
	for _, repository := range repositories {
		_, err = s.HeadTag(t.Context(), repository, "1", 0)
	}
	return err
}

// TestBreakerOpensByHeadAlone checks that a registry is found to be down although few
// pulls are left, so that no GET confirms what HEAD gets: the version check does.
func TestBreakerOpensByHeadAlone(t *testing.T) {
	s := newSingle(t)
	s.up.Fail(registrytest.Failure{Op: registrytest.OpManifest, Status: http.StatusBadGateway})
	for range 5 {
		wantKind(t, s.head(t, "a", "b"), Unavailable)
	}
	s.expect(t, "HEAD fails", false)
	s.up.Heal()
	s.up.Fail(registrytest.Failure{Status: http.StatusBadGateway})
	s.registry.probes = newProbes() // probePeriod is over
	wantKind(t, s.head(t, "a"), Unavailable)
	s.expect(t, "the version check fails too", true, WentDown)
	if got := s.up.Counts().ManifestGet; got != 0 {
		t.Errorf("got %d pulls, want none", got)
	}
}

// TestBreakerIgnoresWhatIsNotSent checks that a request that fails before it is sent is
// no answer of the registry.
func TestBreakerIgnoresWhatIsNotSent(t *testing.T) {
	noLogin := errors.New("the helper fails")
	for name, unsent := range map[string]func(*testing.T, *single){
		"HEAD is of no use": func(t *testing.T, s *single) {
			s.registry.tagHeads.uselessAt = s.registry.now()
			if err := s.head(t, "c"); !errors.Is(err, ratelimit.ErrNoPull) {
				t.Errorf("got %v, want %v", err, ratelimit.ErrNoPull)
			}
		},
		"no login": func(t *testing.T, s *single) {
			s.registry.challenge.Store(new(auth.Challenge)) // Basic
			s.registry.login = func(context.Context, *auth.Login) (auth.Login, error) { return auth.Login{}, noLogin }
			wantKind(t, s.pull(t, "c"), Withheld)
			s.registry.challenge.Store(nil)
			s.registry.login = nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSingle(t)
			s.up.Fail(registrytest.Failure{Status: http.StatusBadGateway})
			wantKind(t, s.pull(t, "a", "b"), Unavailable)
			s.up.Reset()
			unsent(t, s)
			if got := s.up.Counts(); got != (registrytest.Counts{}) {
				t.Errorf("got requests %+v, want none", got)
			}
			wantKind(t, s.pull(t, "a"), Unavailable)
			s.expect(t, "after three failures", true, WentDown)
		})
	}
}

// TestBreakerCountsRememberedErrorOnce checks that a single version check that fails, whose
// error is remembered for outagePeriod, is a single failure.
func TestBreakerCountsRememberedErrorOnce(t *testing.T) {
	s := newSingle(t)
	s.registry.login = auth.StaticLogin(testUser, testPassword)
	s.up.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path == "/v2/" {
			w.WriteHeader(http.StatusBadGateway)
		} else {
			w.WriteHeader(http.StatusNotFound) // to hide private repositories
		}
		return true
	})
	for range 3 {
		wantKind(t, s.pull(t, "a", "b", "c"), Unavailable)
	}
	if got := s.up.Counts().Ping; got != 1 {
		t.Errorf("got %d version checks, want 1", got)
	}
	s.expect(t, "after one version check that failed", false)
}
