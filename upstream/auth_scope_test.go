package upstream

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestRegistryUsesScopeOfChallenge checks that the scope of a challenge is used if
// the registry or its token service refuses the repository's own one, and that it
// is remembered for the repository.
func TestRegistryUsesScopeOfChallenge(t *testing.T) {
	for _, tokenServiceRefuses := range []bool{false, true} {
		r := registrytest.New(t, registrytest.WithToken(testUser, testPassword), registrytest.WithScopePrefix("inner/"))
		var scopes []string
		r.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
			scope := req.URL.Query().Get("scope")
			if scope == "" {
				return false
			}
			scopes = append(scopes, scope)
			if refuse := tokenServiceRefuses && !strings.HasPrefix(scope, "repository:inner/"); !refuse {
				return false
			}
			w.WriteHeader(http.StatusForbidden)
			return true
		})
		u := client(t, r, withLogin)
		now := time.Now()
		u.now = func() time.Time { return now }
		pull := func(what, repository string, want ...string) {
			t.Helper()
			scopes = nil
			if _, err := u.Manifest(t.Context(), repository, "1"); err != nil {
				t.Fatalf("%s, token service refuses %v: %v", what, tokenServiceRefuses, err)
			}
			if got := strings.Join(scopes, " "); got != strings.Join(want, " ") {
				t.Errorf("%s, token service refuses %v: got scopes %s, want %s", what, tokenServiceRefuses, got, want)
			}
		}
		r.PutImage("a", "1", []byte("x"))
		r.PutImage("b", "1", []byte("x"))
		pull("first", "a", "repository:a:pull", "repository:inner/a:pull")
		pull("remembered", "a")
		pull("second repository", "b", "repository:b:pull", "repository:inner/b:pull")
		now = now.Add(time.Minute)
		pull("expired", "a", "repository:inner/a:pull")
		r.RevokeTokens()
		pull("revoked", "a", "repository:inner/a:pull")
	}
}

// TestRegistryRefusesScopesOfChallenge checks that the scope of a challenge is not
// asked for unless it is another repository to pull, and that a refusal of it is
// final.
func TestRegistryRefusesScopesOfChallenge(t *testing.T) {
	for scope, want := range map[string]int{ // the number of token requests
		"":                    1,
		"repository:a:pull":   1,
		"repository:b:push":   1,
		"registry:catalog:*":  1,
		"repository:b/b:pull": 2,
	} {
		r := registrytest.New(t, registrytest.WithToken("", ""))
		r.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
			if req.URL.Path == "/token" {
				if got := req.URL.Query()["scope"]; len(got) != 1 || !strings.HasSuffix(got[0], ":pull") {
					t.Errorf("challenge for %q: got scope %q, want one to pull", scope, got)
				}
				return false
			}
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+r.URL()+`/token",service="registrytest",scope="`+scope+`"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		})
		u := client(t, r)
		for range 2 {
			r.Reset()
			_, err := u.Manifest(t.Context(), "a", "1")
			wantKind(t, err, Denied)
			if got := r.Counts(); got.Token != want || got.ManifestGet > want+1 {
				t.Errorf("challenge for %q: got requests %+v, want %d for a token and %d GETs at most", scope, got, want, want+1)
			}
			if got, remembered := u.tokens.Repository("a"); remembered && got != "a" {
				t.Errorf("challenge for %q: remembered %q, want no refused scope", scope, got)
			}
		}
	}
}
