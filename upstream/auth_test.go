package upstream

import (
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/auth"
)

// TestRegistryRealms checks that New lets the address, the login and the hosts of a
// configuration decide which token services may be asked.
func TestRegistryRealms(t *testing.T) {
	for _, test := range []struct {
		login bool
		hosts []string
		realm string
		kind  Kind // Other: it may be asked
	}{
		{false, nil, "https://other.example/token", Other},
		{true, nil, "https://other.example/token", Withheld},
		{true, []string{"more.example", "other.example"}, "https://other.example/token", Other},
		{true, nil, "https://auth.example.com/token", Other},
		{false, nil, "http://r.example.com/token", Invalid},
	} {
		config := Config{Name: "test.example", Endpoint: &url.URL{Scheme: "https", Host: "r.example.com"}, Transport: http.DefaultTransport, RealmHosts: test.hosts}
		if test.login {
			withLogin(&config)
		}
		u, err := New(config)
		if err != nil {
			t.Fatal(err)
		}
		_, err = u.selectChallenge(new(call), http.Header{"Www-Authenticate": {`Bearer realm="` + test.realm + `"`}})
		if test.kind == Other && err != nil {
			t.Errorf("realm %s, login %t, hosts %v: got %v, want no error", test.realm, test.login, test.hosts, err)
		} else if test.kind != Other {
			wantKind(t, err, test.kind)
		}
	}
}

// TestRegistryRequestsTokenPerRepository checks that there is one 401 in all and one
// token request per repository, and which headers are sent.
func TestRegistryRequestsTokenPerRepository(t *testing.T) {
	r := registrytest.New(t, registrytest.WithToken(testUser, testPassword))
	var mu sync.Mutex
	var realms []string
	u := client(t, r, withLogin, func(c *Config) {
		c.UserAgent = "agent/1"
		c.Hooks.Token = func(host string, err error) { mu.Lock(); defer mu.Unlock(); realms = append(realms, host) }
	})
	r.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
		if req.Header.Get("User-Agent") != "agent/1" || req.Header.Get("Accept-Encoding") != "identity" {
			t.Errorf("got headers %v, want User-Agent agent/1 and Accept-Encoding identity", req.Header)
		}
		return false
	})
	r.PutImage("a", "1", []byte("x"))
	r.PutImage("b", "1", []byte("x"))
	for _, repository := range []string{"a", "a", "b", "a", "b"} {
		if _, err := u.Manifest(t.Context(), repository, "1"); err != nil {
			t.Fatal(err)
		}
	}
	want := registrytest.Counts{Challenged: 1, Token: 2, ManifestGet: 5}
	if got := r.Counts(); got != want {
		t.Errorf("got requests %+v, want %+v", got, want)
	}
	mu.Lock()
	defer mu.Unlock()
	if want := []string{r.Host(), r.Host()}; !slices.Equal(realms, want) {
		t.Errorf("Hooks.Token was called for %v, want %v", realms, want)
	}
}

func TestRegistryBasicAuthentication(t *testing.T) {
	r := registrytest.New(t, registrytest.WithBasic(testUser, testPassword), registrytest.WithBlobRedirect())
	r.PutImage("a", "1", []byte("x"))
	d := r.PutBlob("a", []byte("blob"))
	u := client(t, r, withLogin)
	for range 2 {
		if _, err := u.Manifest(t.Context(), "a", "1"); err != nil {
			t.Fatal(err)
		}
	}
	if got := r.Counts(); got.Challenged != 1 || got.ManifestGet != 2 {
		t.Errorf("got requests %+v, want one challenge and two GETs", got)
	}
	b, err := u.Blob(t.Context(), "a", d, 0, -1, "") // the storage fails the test if it receives the login
	if err != nil {
		t.Fatal(err)
	}
	_ = b.Close()

	_, err = client(t, r).Manifest(t.Context(), "a", "1")
	wantKind(t, err, Denied)
	_, err = client(t, r, withLogin, func(c *Config) { c.Login = auth.StaticLogin(testUser, "wrong") }).Manifest(t.Context(), "a", "1")
	wantKind(t, err, Credentials)
}

var authErrorTests = []struct {
	name    string
	options []registrytest.Option
	prepare func(*registrytest.Registry)
	login   bool
	kind    Kind
	counts  registrytest.Counts
}{
	{"wrong login", []registrytest.Option{registrytest.WithToken("other", "login")}, nil, true,
		Credentials, registrytest.Counts{Challenged: 1, Token: 3}}, // also with POST, and without a scope
	{"no login", []registrytest.Option{registrytest.WithToken("other", "login")}, nil, false,
		Denied, registrytest.Counts{Challenged: 1, Token: 1}},
	{"realm on another host", []registrytest.Option{registrytest.WithToken("", ""), registrytest.WithRealm("http://127.0.0.1:1/token")}, nil, true,
		Withheld, registrytest.Counts{Challenged: 2}}, // the first one to /v2/
	{"relative realm", []registrytest.Option{registrytest.WithToken("", ""), registrytest.WithRealm("/token")}, nil, true,
		Invalid, registrytest.Counts{Challenged: 2}},
	{"insufficient token", []registrytest.Option{registrytest.WithToken("", "")}, func(r *registrytest.Registry) {
		r.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
			if !strings.HasPrefix(req.Header.Get("Authorization"), "Bearer ") {
				return false
			}
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+r.URL()+`/token",service="registrytest",error="insufficient_scope"`)
			w.WriteHeader(401)
			return true
		})
	}, false, Denied, registrytest.Counts{Challenged: 1, Token: 1, ManifestGet: 1}},
	{"forbidden", []registrytest.Option{registrytest.WithToken("", "")}, func(r *registrytest.Registry) {
		r.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
			if req.Header.Get("Authorization") != "" {
				w.WriteHeader(403)
			}
			return req.Header.Get("Authorization") != ""
		})
	}, false, Denied, registrytest.Counts{Challenged: 1, Token: 1, ManifestGet: 1}},
	{"401 without a challenge", nil, func(r *registrytest.Registry) {
		r.Fail(registrytest.Failure{Status: 401})
	}, true, Denied, registrytest.Counts{Ping: 1, ManifestGet: 1}},
	{"rate limit of token service", []registrytest.Option{registrytest.WithToken("", "")}, func(r *registrytest.Registry) {
		r.Fail(registrytest.Failure{Op: registrytest.OpToken, Status: 429, Header: http.Header{"Retry-After": {"5"}}})
	}, false, RateLimited, registrytest.Counts{Challenged: 1, Token: 1}},
	{"rate limit of token service by code", []registrytest.Option{registrytest.WithToken("", "")}, func(r *registrytest.Registry) {
		r.Fail(registrytest.Failure{Op: registrytest.OpToken, Status: 403, Header: http.Header{"Retry-After": {"5"}}, Body: `{"errors":[{"code":"TOOMANYREQUESTS"}]}`})
	}, true, RateLimited, registrytest.Counts{Challenged: 1, Token: 1}},
	{"failing token service", []registrytest.Option{registrytest.WithToken("", "")}, func(r *registrytest.Registry) {
		r.Fail(registrytest.Failure{Op: registrytest.OpToken, Status: 500, Body: "<html>"})
	}, true, Unavailable, registrytest.Counts{Challenged: 1, Token: 1}},
	{"missing token service", []registrytest.Option{registrytest.WithToken("", "")}, func(r *registrytest.Registry) {
		r.Fail(registrytest.Failure{Op: registrytest.OpToken, Status: 404, Body: `{"errors":[{"code":"NAME_UNKNOWN"}]}`})
	}, true, Invalid, registrytest.Counts{Challenged: 1, Token: 2}}, // also with POST
	{"large token response", []registrytest.Option{registrytest.WithToken("", "")}, func(r *registrytest.Registry) {
		r.Fail(registrytest.Failure{Op: registrytest.OpToken, Status: 200, Body: `{"token":"` + strings.Repeat("x", maxTokenResponse) + `"}`})
	}, false, Invalid, registrytest.Counts{Challenged: 1, Token: 1}},
}

func TestRegistryAuthenticationErrors(t *testing.T) {
	for _, test := range authErrorTests {
		t.Run(test.name, func(t *testing.T) {
			r := registrytest.New(t, test.options...)
			r.PutImage("a", "1", []byte("x"))
			if test.prepare != nil {
				test.prepare(r)
			}
			var change []func(*Config)
			if test.login {
				change = append(change, withLogin)
			}
			_, err := client(t, r, change...).Manifest(t.Context(), "a", "1")
			e := wantKind(t, err, test.kind)
			if test.kind == RateLimited && e.RetryAfter.Seconds() != 5 {
				t.Errorf("got RetryAfter %v, want 5s", e.RetryAfter)
			}
			if !strings.Contains(e.Error(), ": a: ") {
				t.Errorf("got %q, want the repository in it", e)
			}
			if got := r.Counts(); got != test.counts {
				t.Errorf("got requests %+v, want %+v", got, test.counts)
			}
		})
	}
}

// TestRegistryTokenRedirectDropsLogin checks that the login is not sent after a
// redirect of the token service to another port, nor after a redirect back.
func TestRegistryTokenRedirectDropsLogin(t *testing.T) {
	r := registrytest.New(t, registrytest.WithToken("", ""))
	r.PutImage("a", "1", []byte("x"))
	var sent []string
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		sent = append(sent, req.Header.Get("Authorization"))
		http.Redirect(w, req, r.URL()+"/token?back=1&"+req.URL.RawQuery, http.StatusFound)
	}))
	t.Cleanup(other.Close)
	var back string
	r.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path != "/token" {
			return false
		}
		sent = append(sent, req.Header.Get("Authorization"))
		if req.URL.Query().Has("back") {
			back = req.Header.Get("Authorization")
			return false
		}
		http.Redirect(w, req, other.URL+"/?"+req.URL.RawQuery, http.StatusTemporaryRedirect)
		return true
	})
	if _, err := client(t, r, withLogin).Manifest(t.Context(), "a", "1"); err != nil {
		t.Fatal(err)
	}
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte(testUser+":"+testPassword))
	if len(sent) != 3 || sent[0] != basic || sent[1] != "" || sent[2] != "" || back != "" {
		t.Errorf("got Authorization %q, want %q only in the first request", sent, basic)
	}
}
