package upstream

import (
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/dial"
)

// gateway returns a registry that requires the test login and redirects to another
// one, which requires a token of its own, and the logins that the latter received.
func gateway(t *testing.T, options ...registrytest.Option) (front, back *registrytest.Registry, logins func() []string) {
	t.Helper()
	back = registrytest.New(t, append(options, registrytest.WithToken("", ""))...)
	var mu sync.Mutex
	var got []string
	back.SetFault(func(_ http.ResponseWriter, req *http.Request) bool {
		if header := req.Header.Get("Authorization"); strings.HasPrefix(header, "Basic ") || req.URL.Path == "/token" && header != "" {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, req.URL.Path+": "+header)
		}
		return false
	})
	front = registrytest.New(t, registrytest.WithToken(testUser, testPassword), registrytest.WithGateway(back))
	return front, back, func() []string { mu.Lock(); defer mu.Unlock(); return got }
}

// TestRegistryAnswersForeignChallenge checks that the challenge of a registry to
// which a gateway redirects is answered anonymously, and that the token is
// remembered, renewed and replaced.
func TestRegistryAnswersForeignChallenge(t *testing.T) {
	front, back, logins := gateway(t, registrytest.WithBlobRedirect())
	back.PutImage("a", "1", []byte("x"))
	u := client(t, front, withLogin)
	now := time.Now()
	u.now = func() time.Time { return now }
	pull := func(what string, want registrytest.Counts) {
		t.Helper()
		back.Reset()
		if _, err := u.ResolveManifest(t.Context(), "a", "1"); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		b, err := u.Blob(t.Context(), "a", digestOf("x"), 0, -1, "") // the storage fails the test if it receives a token
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		_ = b.Close()
		want.ManifestHead, want.BlobGet, want.Storage, want.BlobBytes = 1, 1, 1, 0
		got := back.Counts()
		got.BlobBytes = 0
		if got != want {
			t.Errorf("%s: got requests %+v, want %+v", what, got, want)
		}
	}
	pull("first", registrytest.Counts{Challenged: 1, Token: 1})
	pull("remembered", registrytest.Counts{})
	now = now.Add(time.Minute)
	pull("expired", registrytest.Counts{Challenged: 1, Token: 1})
	back.RevokeTokens()
	pull("revoked", registrytest.Counts{Challenged: 1, Token: 1})
	if got := front.Counts(); got.Challenged != 1 || got.Token != 2 {
		t.Errorf("got requests %+v to the gateway, want 1 challenge and 2 token requests", got)
	}
	if got := logins(); len(got) != 0 {
		t.Errorf("the other registry received %q, want no login", got)
	}
}

// TestRegistryDerivesForeignScope checks that the scope of a foreign challenge without
// one is that of the path.
func TestRegistryDerivesForeignScope(t *testing.T) {
	front, back, _ := gateway(t)
	back.PutImage("a/b", "1", []byte("x"))
	back.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path == "/token" || req.Header.Get("Authorization") != "" {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+back.URL()+`/token",service="registrytest"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	})
	if _, err := client(t, front, withLogin).Manifest(t.Context(), "a/b", "1"); err != nil {
		t.Error(err)
	}
}

var foreignErrorTests = []struct {
	name      string
	challenge string // REALM stands for the token service
	refuse    int    // status of the token service, 0 for a token
	kind      Kind
	text      string
	requests  [2]int // to the registry and its token service
}{
	{"token refused", `Bearer realm="REALM",scope="repository:a:pull"`, 403, Denied, "token from", [2]int{1, 1}},
	{"token service fails", `Bearer realm="REALM",scope="repository:a:pull"`, 500, Unavailable, "token from", [2]int{1, 1}},
	{"token insufficient", `Bearer realm="REALM",scope="repository:a:pull"`, 0, Denied, "to which the registry redirects", [2]int{2, 1}},
	{"scope to push", `Bearer realm="REALM",scope="repository:a:push"`, 0, Denied, "to which the registry redirects", [2]int{2, 1}},
	{"Basic", `Basic realm="REALM"`, 0, Unavailable, "after a redirect", [2]int{1, 0}},
	{"relative realm", `Bearer realm="/token",scope="repository:a:pull"`, 0, Unavailable, "after a redirect", [2]int{1, 0}},
	{"none", ``, 0, Unavailable, "after a redirect", [2]int{1, 0}},
}

func TestRegistryForeignChallengeErrors(t *testing.T) {
	for _, test := range foreignErrorTests {
		t.Run(test.name, func(t *testing.T) {
			front, back, _ := gateway(t)
			var mu sync.Mutex
			var requests [2]int
			back.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
				mu.Lock()
				defer mu.Unlock()
				if req.URL.Path == "/token" {
					requests[1]++
					if got := req.URL.Query()["scope"]; len(got) != 1 || got[0] != "repository:a:pull" {
						t.Errorf("got scope %q, want one to pull", got)
					}
					if test.refuse != 0 {
						w.WriteHeader(test.refuse)
						return true
					}
					_, _ = w.Write([]byte(`{"token":"token-that-must-not-leak"}`))
					return true
				}
				requests[0]++
				w.Header().Set("WWW-Authenticate", strings.ReplaceAll(test.challenge, "REALM", back.URL()+"/token"))
				w.WriteHeader(http.StatusUnauthorized)
				return true
			})
			_, err := client(t, front, withLogin).Manifest(t.Context(), "a", "1")
			e := wantKind(t, err, test.kind)
			if !strings.Contains(e.Error(), test.text) {
				t.Errorf("got %q, want %q in it", e, test.text)
			}
			if requests != test.requests {
				t.Errorf("got %v requests to the registry and its token service, want %v", requests, test.requests)
			}
		})
	}
}

// TestRegistryIgnoresForeignChallengeOnPlainHTTP checks that no token is requested
// after a redirect from https to plain http, nor from a token service on plain http
// for a registry on https.
func TestRegistryIgnoresForeignChallengeOnPlainHTTP(t *testing.T) {
	plain := registrytest.New(t, registrytest.WithToken("", ""))
	secure := registrytest.New(t, registrytest.WithTLS(), registrytest.WithToken("", ""), registrytest.WithRealm(plain.URL()+"/token"))
	for name, back := range map[string]*registrytest.Registry{"registry": plain, "realm": secure} {
		front := registrytest.New(t, registrytest.WithTLS(), registrytest.WithGateway(back))
		back.PutBlob("a", []byte("x"))
		transport := dial.NewTransport(dial.TransportConfig{AllowPrivate: true})
		transport.TLSClientConfig = front.Transport().(*http.Transport).TLSClientConfig // httptest has one certificate
		t.Cleanup(transport.CloseIdleConnections)
		u := client(t, front, func(c *Config) { c.Transport = transport })
		_, err := u.Blob(t.Context(), "a", digestOf("x"), 0, -1, "")
		if e := wantKind(t, err, Unavailable); !strings.Contains(e.Error(), "after a redirect") {
			t.Errorf("%s: got %q, want access denied after a redirect", name, e)
		}
		if got := plain.Counts().Token; got != 0 {
			t.Errorf("%s: got %d token requests over plain http, want none", name, got)
		}
	}
}
