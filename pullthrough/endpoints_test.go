package pullthrough

import (
	"net/http"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// addEndpoint gives the upstream of a fixture, which is down, a second endpoint.
func (f *fixture) addEndpoint(first, second *clocked) {
	f.t.Helper()
	var registries []*upstream.Registry
	for host, up := range map[string]*clocked{"a.example": first, "b.example": second} {
		r, err := upstream.New(upstream.Config{Name: "hub", Endpoint: &url.URL{Scheme: "https", Host: host}, Transport: up})
		if err != nil {
			f.t.Fatal(err)
		}
		if registries = append(registries, r); up == first {
			registries[0], registries[len(registries)-1] = r, registries[0]
		}
	}
	f.config.Registry = upstream.NewMirrors(registries[0], registries[1])
}

// While the first endpoint of an upstream is not asked because it is down, the answers of
// the second one are remembered as those of a single one: a tag that is pulled again and
// again is asked about once during the pause after a failure.
func TestRepositoryStaleWithSeveralEndpoints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, first := newClocked(t)
		second := new(clocked)
		f.addEndpoint(first, second)
		first.set(func(u *clocked) { u.status = noResponse })
		second.set(func(u *clocked) { u.status = http.StatusNotFound })
		time.Sleep(time.Minute)
		for range 5 { // until the first endpoint is down
			f.expectPull("1", Origin{Status: Stale, Reason: Unreachable}, manifestNumber("1"), 0)
			time.Sleep(time.Minute)
		}
		f.expectPull("1", Origin{Status: Stale, Reason: Unreachable}, manifestNumber("1"), 0) // a trial
		time.Sleep(staleHold)
		first.set(func(*clocked) {})
		second.set(func(*clocked) {})
		for range 10 {
			f.expectPull("1", Origin{Status: Stale, Reason: Unreachable}, manifestNumber("1"), 0)
		}
		if a, b := first.count(), second.count(); a != 0 || b == 0 || b > 2 {
			t.Errorf("got %d requests at the first endpoint and %d at the second one, want one question at the second one", a, b)
		}
		time.Sleep(staleHold)
		second.set(func(u *clocked) { u.status, u.manifest = 0, manifestNumber("2") })
		f.expectPull("1", Origin{Status: Revalidated}, manifestNumber("2"), 0)
	})
}
