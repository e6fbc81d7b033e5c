package upstream

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/auth"
)

// rotation is a source that has the next of its passwords after each refusal.
type rotation struct {
	passwords []auth.Secret

	mu      sync.Mutex
	current int
	refused []auth.Login
}

func (s *rotation) login(_ context.Context, refused *auth.Login) (auth.Login, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if refused != nil {
		s.refused = append(s.refused, *refused)
		s.current = min(s.current+1, len(s.passwords)-1)
	}
	return auth.Login{Username: testUser, Password: s.passwords[s.current]}, nil
}

// TestRegistryRenewsLogin checks that a refused login is replaced once by a newer
// one of its source, with both ways of authentication.
func TestRegistryRenewsLogin(t *testing.T) {
	for way, option := range map[string]registrytest.Option{
		"basic": registrytest.WithBasic(testUser, testPassword), "token": registrytest.WithToken(testUser, testPassword),
	} {
		for name, test := range map[string]struct {
			passwords []auth.Secret
			kind      Kind // Other: success
			refused   int
		}{
			"current":         {[]auth.Secret{testPassword}, Other, 0},
			"rotated":         {[]auth.Secret{"old", testPassword}, Other, 1},
			"no newer one":    {[]auth.Secret{"old"}, Credentials, 1},
			"newer one wrong": {[]auth.Secret{"old", "older", testPassword}, Credentials, 1},
		} {
			t.Run(way+" "+name, func(t *testing.T) {
				r := registrytest.New(t, option)
				r.PutImage("a", "1", []byte("x"))
				source := &rotation{passwords: test.passwords}
				u := client(t, r, func(c *Config) { c.Login = source.login })
				if _, err := u.Manifest(t.Context(), "a", "1"); test.kind != Other {
					wantKind(t, err, test.kind)
				} else if err != nil {
					t.Error(err)
				}
				if len(source.refused) != test.refused {
					t.Errorf("the source was told of %d refused logins, want %d", len(source.refused), test.refused)
				}
				for _, login := range source.refused {
					if login != (auth.Login{Username: testUser, Password: test.passwords[0]}) {
						t.Errorf("the source was told that %s was refused, want the first login", login.Username)
					}
				}
				_, err := u.Manifest(t.Context(), "a", "1")
				if (err == nil) != (test.kind == Other || name == "newer one wrong") {
					t.Errorf("second pull: got error %v", err)
				}
			})
		}
	}
}

// TestRegistryForbiddenRepository checks that a 403 for one repository does not
// count as a refused login.
func TestRegistryForbiddenRepository(t *testing.T) {
	r := registrytest.New(t, registrytest.WithToken(testUser, testPassword))
	r.PutImage("a", "1", []byte("x"))
	source := &rotation{passwords: []auth.Secret{testPassword, "another"}}
	u := client(t, r, func(c *Config) { c.Login = source.login })
	r.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
		refuse := req.URL.Query().Has("scope")
		if refuse {
			w.WriteHeader(http.StatusForbidden)
		}
		return refuse
	})
	if _, err := u.Manifest(t.Context(), "a", "1"); err == nil {
		t.Error("got no error, want one")
	}
	if len(source.refused) != 0 {
		t.Errorf("the source was told of %d refused logins, want none", len(source.refused))
	}
}

// TestRegistryWithoutLogin checks the errors of a source that has no login.
func TestRegistryWithoutLogin(t *testing.T) {
	for way, option := range map[string]registrytest.Option{
		"basic": registrytest.WithBasic(testUser, testPassword), "token": registrytest.WithToken(testUser, testPassword),
	} {
		r := registrytest.New(t, option)
		r.PutImage("a", "1", []byte("x"))
		for name, answer := range map[string]error{"the helper says no": errors.New("the helper says no"), "incomplete credentials": nil,
			"deadline exceeded": context.DeadlineExceeded} {
			u := client(t, r, func(c *Config) {
				c.Login = func(context.Context, *auth.Login) (auth.Login, error) { return auth.Login{Username: testUser}, answer }
			})
			_, err := u.Manifest(t.Context(), "a", "1")
			if e := wantKind(t, err, Withheld); !strings.Contains(e.Error(), name) || errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: got %v, want %q in it and no deadline of the caller", way, err, name)
			}
		}
		ctx, leave := context.WithCancel(t.Context())
		u := client(t, r, func(c *Config) {
			c.Login = func(ctx context.Context, _ *auth.Login) (auth.Login, error) {
				leave()
				return auth.Login{}, errors.New("interrupted")
			}
		})
		if _, err := u.Manifest(ctx, "a", "1"); !errors.Is(err, context.Canceled) || KindOf(err) != Other {
			t.Errorf("%s: got %v, want %v of the caller that has left", way, err, context.Canceled)
		}
	}
}
