package bucket

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/s3test"
)

// TestNotLinkedIsRemembered: that a scope is not linked to content costs one request to the
// bucket for each scope and digest, however many ask at once and again, until five seconds
// have passed. Then a link of another node is found.
func TestNotLinkedIsRemembered(t *testing.T) {
	if got := (Config{}).withDefaults().waits.absent; got != 5*time.Second {
		t.Errorf("an absent record is remembered for %v, want 5s", got)
	}
	server := s3test.New(t)
	d := digest.FromString("layer")
	for _, test := range []struct {
		absent time.Duration
		want   int // requests for each of two scopes
		found  bool
	}{{time.Hour, 1, false}, {time.Nanosecond, 2, true}} {
		c := configOf(t, server, t.TempDir())
		c.waits.absent = test.absent
		n, other := start(t, c), newNode(t, server)
		x, y := index.New(n), index.New(other)
		scopes := []string{fmt.Sprintf("acme/_/%d/a", test.want), fmt.Sprintf("acme/_/%d/b", test.want)}
		before := server.Requests(http.MethodGet)
		var all sync.WaitGroup
		for i := range 40 {
			all.Go(func() {
				if _, err := x.Link(t.Context(), scopes[i%2], d); !errors.Is(err, fs.ErrNotExist) {
					t.Errorf("without a link: %v", err)
				}
			})
		}
		all.Wait()
		if got := server.Requests(http.MethodGet) - before; test.want == 1 && got != 2 {
			t.Errorf("40 questions about two scopes: %d requests, want 2", got)
		}
		if err := y.AddLink(t.Context(), scopes[0], d, index.Link{Size: 5}); err != nil {
			t.Fatal(err)
		}
		other.flush(t)
		before = server.Requests(http.MethodGet)
		for range 3 {
			if _, err := x.Link(t.Context(), scopes[0], d); (err == nil) != test.found {
				t.Errorf("after another node has linked it: %v, want it found: %v", err, test.found)
			}
		}
		if got := server.Requests(http.MethodGet) - before; got != test.want-1 {
			t.Errorf("after another node has linked it: %d requests, want %d", got, test.want-1)
		}
	}
}
