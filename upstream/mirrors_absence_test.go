package upstream

import (
	"net/http"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestMirrorsFailingRepository checks that one repository that fails at the first
// address does not hide the others that only this address has, and that an address
// that makes no connection or limits requests is left alone.
func TestMirrorsFailingRepository(t *testing.T) {
	for _, status := range []int{500, 503, 429} {
		a, b := registrytest.New(t), registrytest.New(t)
		a.PutImage("only", "1", []byte("x"))
		a.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
			fails := req.URL.Path == "/v2/bad/manifests/1"
			if fails {
				w.WriteHeader(status)
			}
			return fails
		})
		m := NewMirrors(client(t, a), client(t, b))
		kind := Unavailable
		if status == http.StatusTooManyRequests {
			kind = RateLimited
		}
		for range 3 {
			_, err := m.Manifest(t.Context(), "bad", "1")
			wantKind(t, err, kind)
			a.Reset()
			_, err = m.Manifest(t.Context(), "only", "1")
			if kind == RateLimited {
				wantKind(t, err, kind)
			} else if err != nil {
				t.Errorf("%d for another repository: got %v, want the manifest", status, err)
			}
			_, err = m.Manifest(t.Context(), "missing", "1")
			if kind == RateLimited {
				wantKind(t, err, kind)
			} else {
				wantKind(t, err, NameUnknown)
			}
		}
	}
}

// TestMirrorsReportAPauseOnce checks that a pause is reported once, and not again for each
// request that is sent to the address during it.
func TestMirrorsReportAPauseOnce(t *testing.T) {
	p := newPair(t)
	for _, r := range []*registrytest.Registry{p.a, p.b} {
		r.Fail(registrytest.Failure{Status: http.StatusBadGateway})
	}
	for range 5 {
		wantKind(t, p.pull(t), Unavailable)
	}
	if got := len(p.paused); got != 2 {
		t.Errorf("got %d reports of pauses, want one for each address", got)
	}
}
