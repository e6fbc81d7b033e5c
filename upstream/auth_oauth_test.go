package upstream

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/auth"
)

// withIdentityToken configures an identity token as the test login.
func withIdentityToken(c *Config) { c.Login = auth.StaticLogin(auth.IdentityUser, testPassword) }

// TestRegistryPostsLogin checks that a login is sent with POST where the token
// service refuses GET, that this is remembered, and that an identity token is only
// sent with POST.
func TestRegistryPostsLogin(t *testing.T) {
	for _, status := range []int{400, 401, 404, 405} {
		r := registrytest.New(t, registrytest.WithToken(testUser, testPassword), registrytest.WithOAuth(status))
		r.PutImage("a", "1", []byte("x"))
		r.PutImage("b", "1", []byte("x"))
		u := client(t, r, withLogin)
		pullTokens(t, u, r, "a", 4) // GET, trials of POST with and without the login, POST
		pullTokens(t, u, r, "b", 1)
	}
	for _, status := range []int{0, 404} {
		r := registrytest.New(t, registrytest.WithToken(testUser, testPassword), registrytest.WithOAuth(status))
		r.PutImage("a", "1", []byte("x"))
		pullTokens(t, client(t, r, withIdentityToken), r, "a", 1)
	}
}

// pullTokens pulls an image and checks the number of token requests.
func pullTokens(t *testing.T, u *Registry, r *registrytest.Registry, repository string, want int) {
	t.Helper()
	r.Reset()
	if _, err := u.Manifest(t.Context(), repository, "1"); err != nil {
		t.Fatal(err)
	}
	if got := r.Counts(); got.Token != want {
		t.Errorf("repository %s: got %d token requests, want %d", repository, got.Token, want)
	}
}

// TestRegistryDoesNotPost checks that POST is not tried without a login, nor if the
// token service fails, and once a minute if it is refused too.
func TestRegistryDoesNotPost(t *testing.T) {
	for _, test := range []struct {
		status int
		login  bool
		kind   Kind
		posts  int32
	}{
		{401, false, Denied, 0},
		{500, true, Unavailable, 0},
		{429, true, RateLimited, 0},
		{404, true, Invalid, 1},
		{401, true, Credentials, 1},
	} {
		r := registrytest.New(t, registrytest.WithToken(testUser, testPassword))
		var posts atomic.Int32
		r.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
			if req.URL.Path != "/token" {
				return false
			}
			if req.Method == http.MethodPost {
				posts.Add(1)
			}
			w.WriteHeader(test.status)
			return true
		})
		var change []func(*Config)
		if test.login {
			change = append(change, withLogin)
		}
		u := client(t, r, change...)
		for range 3 {
			_, err := u.Manifest(t.Context(), "a", "1")
			wantKind(t, err, test.kind)
		}
		if got := posts.Load(); got != test.posts {
			t.Errorf("status %d, login %v: got %d POSTs, want %d", test.status, test.login, got, test.posts)
		}
	}
}

// TestRegistryPostIgnored checks that a wrong login is reported if the token service
// issues anonymous tokens for POST without reading the form.
func TestRegistryPostIgnored(t *testing.T) {
	r := registrytest.New(t, registrytest.WithToken(testUser, testPassword))
	r.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
		switch {
		case req.URL.Path != "/token":
			return false
		case req.Method == http.MethodPost:
			_, _ = w.Write([]byte(`{"token":"anonymous"}`))
		default:
			w.WriteHeader(http.StatusUnauthorized)
		}
		return true
	})
	_, err := client(t, r, withLogin).Manifest(t.Context(), "a", "1")
	wantKind(t, err, Credentials)
}

// TestRegistryIdentityTokenErrors checks that an identity token is not sent as a
// password, nor after a redirect, and that its refusal is one of the login.
func TestRegistryIdentityTokenErrors(t *testing.T) {
	var received atomic.Int32
	other := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { received.Add(1) }))
	t.Cleanup(other.Close)
	for name, test := range map[string]struct {
		option registrytest.Option
		answer http.HandlerFunc // of the token service
		kind   Kind
		text   string
	}{
		"expired": {registrytest.WithToken("", ""), func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnauthorized) }, Credentials, "rejected"},
		"revoked": {registrytest.WithToken("", ""), func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadRequest) }, Credentials, "rejected"},
		"redirected": {registrytest.WithToken("", ""), func(w http.ResponseWriter, req *http.Request) {
			http.Redirect(w, req, other.URL, http.StatusTemporaryRedirect)
		}, Invalid, "redirected"},
		"Basic": {registrytest.WithBasic("u", "p"), nil, Withheld, "identity token"},
	} {
		r := registrytest.New(t, test.option)
		r.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
			if header := req.Header.Get("Authorization"); header != "" {
				t.Errorf("%s: got Authorization %q, want none", name, header)
			}
			if req.URL.Path == "/token" {
				test.answer(w, req)
			}
			return req.URL.Path == "/token"
		})
		_, err := client(t, r, withIdentityToken).Manifest(t.Context(), "a", "1")
		if e := wantKind(t, err, test.kind); !strings.Contains(e.Error(), test.text) {
			t.Errorf("%s: got %q, want %q in it", name, e, test.text)
		}
	}
	if got := received.Load(); got != 0 {
		t.Errorf("got %d requests after a redirect, want none", got)
	}
}
