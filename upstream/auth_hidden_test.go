package upstream

import (
	"net/http"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestRegistryHiddenDuringOutage checks that what a registry hides from anonymous
// clients is not unknown because the registry could not answer the version check, and
// that it is found once it can.
func TestRegistryHiddenDuringOutage(t *testing.T) {
	for _, outage := range []int{500, 503, 429} {
		for _, hidden := range []int{403, 404} {
			r := registrytest.New(t, registrytest.WithToken(testUser, testPassword), registrytest.WithHidden(hidden))
			r.PutImage("a", "1", []byte("x"))
			r.Fail(registrytest.Failure{Op: registrytest.OpPing, Status: outage})
			u := client(t, r, withLogin)
			for range 2 {
				_, err := u.Manifest(t.Context(), "a", "1")
				want := Unavailable
				if outage == http.StatusTooManyRequests {
					want = RateLimited
				}
				wantKind(t, err, want)
			}
			if n := r.Counts().Ping; n != 1 {
				t.Errorf("got %d version checks, want 1", n)
			}
			r.Heal()
			u.probes = newProbes() // outagePeriod is over
			if _, err := u.Manifest(t.Context(), "a", "1"); err != nil {
				t.Errorf("version check gets %d, anonymous clients get %d: got %v, want the manifest", outage, hidden, err)
			}
		}
	}
}
