package upstream

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/auth"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/dial"
)

// TestRegistryLearnsMovedTokenService checks that a registry whose token service has
// moved, or that has one repository whose token service fails, is asked for its
// challenge again.
func TestRegistryLearnsMovedTokenService(t *testing.T) {
	for _, login := range []bool{false, true} {
		user, change := "", []func(*Config){}
		if login {
			user, change = testUser, append(change, withLogin)
		}
		r := registrytest.New(t, registrytest.WithToken(user, testPassword))
		for _, name := range []string{"a", "b", "c", "d"} {
			r.PutImage(name, "1", []byte("x"))
		}
		var moved atomic.Bool // to /token
		r.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
			switch {
			case req.URL.Path == "/old/token" && moved.Load():
				w.WriteHeader(http.StatusServiceUnavailable)
			case req.URL.Path == "/old/token":
				_, _ = w.Write([]byte(`{"token":"old"}`))
			case !moved.Load() && req.Header.Get("Authorization") == "Bearer old":
				w.WriteHeader(http.StatusNotFound)
			case !moved.Load() || req.URL.Path == "/v2/b/manifests/1":
				w.Header().Set("WWW-Authenticate", `Bearer realm="`+r.URL()+`/old/token",service="registrytest"`)
				w.WriteHeader(http.StatusUnauthorized)
			default:
				return false
			}
			return true
		})
		u := client(t, r, change...)
		_, err := u.Manifest(t.Context(), "a", "1")
		wantKind(t, err, ManifestUnknown)
		u.probes = newProbes() // the period of the first check of the version is over
		moved.Store(true)
		for _, name := range []string{"c", "b", "d"} {
			_, err := u.Manifest(t.Context(), name, "1")
			if name == "b" {
				wantKind(t, err, Unavailable)
			} else if err != nil {
				t.Errorf("login %v: got %v for %s, want its manifest", login, err, name)
			}
		}
	}
}

// TestRegistryForgetsRefusedScope checks that a scope that a challenge has named is
// not asked for any more once the token service refuses it.
func TestRegistryForgetsRefusedScope(t *testing.T) {
	for _, kept := range []bool{false, true} { // the old token, which the registry refuses
		r := registrytest.New(t, registrytest.WithToken("", ""), registrytest.WithScopePrefix("inner/"))
		r.PutImage("a", "1", []byte("x"))
		var renamed atomic.Bool
		r.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
			if !renamed.Load() {
				return false
			}
			switch authorization, scope := req.Header.Get("Authorization"), req.URL.Query().Get("scope"); {
			case authorization == "Bearer new":
				w.WriteHeader(http.StatusNotFound) // which only those who may pull learn
			case req.URL.Path == "/token" && scope == "repository:a:pull":
				_, _ = w.Write([]byte(`{"token":"new"}`))
			case req.URL.Path == "/token":
				w.WriteHeader(http.StatusForbidden)
			default:
				w.Header().Set("WWW-Authenticate", `Bearer realm="`+r.URL()+`/token",service="registrytest",scope="repository:a:pull"`)
				w.WriteHeader(http.StatusUnauthorized)
			}
			return true
		})
		u := client(t, r)
		if _, err := u.Manifest(t.Context(), "a", "1"); err != nil {
			t.Fatal(err)
		}
		if renamed.Store(true); !kept {
			old := u.tokens.Valid("a", u.now())
			u.tokens.Drop("a", old)
		}
		_, err := u.Manifest(t.Context(), "a", "1")
		wantKind(t, err, ManifestUnknown)
	}
}

// TestRegistryPostProbeOfDeniedRepository checks that a token service that accepts
// logins by POST only, and is first asked about a repository that it denies, does not
// seem to refuse the login.
func TestRegistryPostProbeOfDeniedRepository(t *testing.T) {
	for _, get := range []int{http.StatusUnauthorized, http.StatusMethodNotAllowed} {
		r := registrytest.New(t, registrytest.WithToken(testUser, testPassword), registrytest.WithOAuth(get))
		r.PutImage("a", "1", []byte("x"))
		r.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
			denied := req.URL.Path == "/token" && req.FormValue("scope") == "repository:secret:pull"
			if denied {
				w.WriteHeader(http.StatusUnauthorized)
			}
			return denied
		})
		u := client(t, r, withLogin)
		_, err := u.Manifest(t.Context(), "secret", "1")
		wantKind(t, err, Denied)
		if _, err := u.Manifest(t.Context(), "a", "1"); err != nil {
			t.Errorf("GET gets %d: got %v after a denied repository, want the manifest", get, err)
		}
	}
}

// TestRegistryForgetsPost checks that GET is used again if a token service does not
// know POST any more.
func TestRegistryForgetsPost(t *testing.T) {
	var get atomic.Bool
	var r *httptest.Server
	r = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		switch {
		case req.URL.Path == "/token" && (req.Method == http.MethodGet) != get.Load():
			w.WriteHeader(http.StatusMethodNotAllowed)
		case req.URL.Path == "/token" && req.Method == http.MethodPost && req.PostFormValue("password") == "":
			w.WriteHeader(http.StatusUnauthorized)
		case req.URL.Path == "/token":
			_, _ = w.Write([]byte(`{"token":"t"}`))
		case req.Header.Get("Authorization") == "":
			w.Header().Set("WWW-Authenticate", `Bearer realm="`+r.URL+`/token"`)
			w.WriteHeader(http.StatusUnauthorized)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(r.Close)
	transport := dial.NewTransport(dial.TransportConfig{AllowPrivate: true})
	t.Cleanup(transport.CloseIdleConnections)
	u := clientAt(t, r.URL, transport)
	u.login = auth.StaticLogin(testUser, testPassword)
	for _, name := range []string{"a", "b", "c"} {
		_, err := u.Manifest(t.Context(), name, "1")
		wantKind(t, err, ManifestUnknown)
		get.Store(true)
	}
}
