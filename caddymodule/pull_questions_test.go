package caddymodule

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// An upstream that does not answer is asked a limited number of questions at a time
// for a group, even if the clients do not wait. Another group's pull is not delayed.
func TestPullQuestionsAreLimitedByGroup(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 50_000))
	s := start(t, users("alice", "bob"), private("red", "alice"), private("blue", "bob"), hub(up))
	token := s.token("alice")
	const atOnce = 64 // as pullthrough.Questions has it
	var now, most atomic.Int32
	gate := make(chan struct{})
	up.SetFault(func(_ http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "library/odd") {
			return false
		}
		n := now.Add(1)
		for was := most.Load(); n > was && !most.CompareAndSwap(was, n); was = most.Load() {
		}
		select {
		case <-gate:
		case <-r.Context().Done():
		}
		now.Add(-1)
		return false
	})
	together(200, func(i int) {
		d := digest.FromString(fmt.Sprint(i))
		path := []string{manifestPath("red", "odd", string(d)), blobPath("red", "odd", d), "/v2/red" + infix + "odd/referrers/" + string(d)}[i%3]
		r, err := http.NewRequestWithContext(t.Context(), []string{http.MethodGet, http.MethodHead, http.MethodGet}[i%3], s.url+path, nil)
		if err != nil {
			t.Error(err)
			return
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		bearer(token)(r)
		if response, err := http.DefaultClient.Do(r.WithContext(ctx)); err == nil {
			_ = response.Body.Close()
		}
	})
	if n := most.Load(); n != atOnce {
		t.Errorf("got %d questions at once, want %d", n, atOnce)
	}
	begin := time.Now()
	pull(t, s, "blue", "alpine", "3.20", as("bob"))
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("the other group's pull took %v, want less than 10s", took)
	}
	close(gate)
	eventually(t, "no question waits", func() bool { return now.Load() == 0 })
	pull(t, s, "red", "alpine", "3.20", bearer(token))
}
