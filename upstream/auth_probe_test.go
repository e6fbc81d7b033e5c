package upstream

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestRegistryAsksForChallengeFirst checks that with a login, the first request
// carries it even if the registry hides its repositories from anonymous clients,
// that concurrent calls ask for the challenge once, and that without a login
// nobody asks.
func TestRegistryAsksForChallengeFirst(t *testing.T) {
	for _, status := range []int{403, 404, 429} {
		for name, option := range map[string]registrytest.Option{
			"token": registrytest.WithToken(testUser, testPassword), "Basic": registrytest.WithBasic(testUser, testPassword),
		} {
			r := registrytest.New(t, option, registrytest.WithHidden(status))
			r.PutImage("a", "1", []byte("x"))
			u := client(t, r, withLogin)
			var wg sync.WaitGroup
			for range 8 {
				wg.Go(func() {
					if _, err := u.Manifest(t.Context(), "a", "1"); err != nil {
						t.Errorf("%s, anonymous requests get %d: %v", name, status, err)
					}
				})
			}
			wg.Wait()
			if got := r.Counts(); got.Challenged != 1 || got.ManifestGet != 8 {
				t.Errorf("%s: got requests %+v, want 1 challenge and 8 GETs", name, got)
			}
			r.Reset()
			_, err := client(t, r).Manifest(t.Context(), "a", "1")
			if KindOf(err) == Other {
				t.Errorf("%s: got %v without a login, want a failure", name, err)
			}
			if got := r.Counts(); got.Challenged != 1 || got.Ping != 0 {
				t.Errorf("%s: got requests %+v without a login, want 1", name, got)
			}
		}
	}
}

// TestRegistryWithoutVersionCheck checks that a registry whose /v2/ fails or has no
// challenge works with a login, and that it is not asked again with each request.
func TestRegistryWithoutVersionCheck(t *testing.T) {
	for name, failure := range map[string]registrytest.Failure{
		"missing":           {Op: registrytest.OpPing, Status: 404},
		"refused":           {Op: registrytest.OpPing, Status: 401},
		"broken":            {Op: registrytest.OpPing, Status: 500},
		"open":              {Op: registrytest.OpPing, Status: 200},
		"foreign challenge": {Op: registrytest.OpPing, Status: 401, Header: http.Header{"Www-Authenticate": {`Bearer realm="https://evil.example/token"`}}},
	} {
		r := registrytest.New(t, registrytest.WithToken(testUser, testPassword))
		r.PutImage("a", "1", []byte("x"))
		r.Fail(failure)
		u := client(t, r, withLogin)
		for range 3 {
			if _, err := u.Manifest(t.Context(), "a", "1"); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if got := r.Counts(); got.Ping != 1 || got.ManifestGet != 3 {
			t.Errorf("%s: got requests %+v, want 1 for /v2/ and 3 GETs", name, got)
		}
	}
	open := registrytest.New(t)
	open.PutImage("a", "1", []byte("x"))
	u := client(t, open, withLogin)
	for range 3 {
		if _, err := u.Manifest(t.Context(), "a", "1"); err != nil {
			t.Error(err)
		}
	}
	if got := open.Counts(); got.Ping != 1 {
		t.Errorf("registry without authentication: got %d requests for /v2/, want 1", got.Ping)
	}
}

// TestRegistryBlames403OnLogin checks that a 403 to a Basic login is blamed on the
// login if /v2/ refuses it too, and on the repository otherwise.
func TestRegistryBlames403OnLogin(t *testing.T) {
	r := registrytest.New(t, registrytest.WithBasic(testUser, testPassword))
	r.PutImage("a", "1", []byte("x"))
	pull := func(u *Registry, want Kind) {
		t.Helper()
		_, err := u.Manifest(t.Context(), "a", "1")
		if want == Other && err != nil {
			t.Fatal(err)
		} else if want != Other {
			wantKind(t, err, want)
		}
	}
	u := client(t, r, withLogin)
	pull(u, Other)
	r.Reset()
	r.Fail(registrytest.Failure{Op: registrytest.OpManifest, Status: 403}) // a private repository
	pull(u, Denied)
	pull(u, Denied)
	if got := r.Counts(); got.Ping != 1 || got.ManifestGet != 2 {
		t.Errorf("got requests %+v, want 1 for /v2/ and 2 GETs", got)
	}
	for _, status := range []int{401, 403} {
		r.Heal()
		u = client(t, r, withLogin)
		pull(u, Other)
		r.Reset()
		r.Fail(registrytest.Failure{Op: registrytest.OpManifest, Status: 403})
		r.Fail(registrytest.Failure{Op: registrytest.OpPing, Status: status})
		pull(u, Credentials)
		pull(u, Credentials)
		if got := r.Counts(); got.Ping != 1 || got.ManifestGet != 2 {
			t.Errorf("/v2/ answers %d: got requests %+v, want 1 for /v2/ and 2 GETs", status, got)
		}
	}
	r.Heal()
	u = client(t, r, withLogin)
	pull(u, Other)
	r.Fail(registrytest.Failure{Op: registrytest.OpManifest, Status: 403})
	r.Fail(registrytest.Failure{Op: registrytest.OpPing, Status: 503})
	pull(u, Denied)
}

// TestRegistryBlamesTokenServiceRefusal checks that a refused token is blamed on the
// login only if the token service refuses the login itself.
func TestRegistryBlamesTokenServiceRefusal(t *testing.T) {
	for _, test := range []struct {
		repository, itself int // status of the token service, for a repository and without a scope
		kind               Kind
	}{
		{403, 0, Denied},
		{401, 0, Denied},
		{403, 400, Denied},
		{401, 400, Credentials},
		{403, 403, Credentials},
		{401, 401, Credentials},
		{403, 401, Credentials},
	} {
		r := registrytest.New(t, registrytest.WithToken(testUser, testPassword))
		r.PutImage("a", "1", []byte("x"))
		r.PutImage("b", "1", []byte("x"))
		var mu sync.Mutex
		probes := 0
		r.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
			if req.URL.Path != "/token" || req.Method != http.MethodGet {
				return false
			}
			status := 0
			switch scope := req.URL.Query().Get("scope"); {
			case scope == "":
				mu.Lock()
				probes++
				mu.Unlock()
				status = test.itself
			case strings.Contains(scope, ":a:"):
				status = test.repository
			}
			if status != 0 {
				w.WriteHeader(status)
			}
			return status != 0
		})
		u := client(t, r, withLogin)
		if _, err := u.Manifest(t.Context(), "b", "1"); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			_, err := u.Manifest(t.Context(), "a", "1")
			wantKind(t, err, test.kind)
		}
		if probes != 1 {
			t.Errorf("repository %d, itself %d: got %d probes, want 1", test.repository, test.itself, probes)
		}
	}
}
