package upstream

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestHooksAnswered checks that each HTTP request is reported with its operation and
// status, and each byte of the bodies once.
func TestHooksAnswered(t *testing.T) {
	up := registrytest.New(t, registrytest.WithToken(testUser, testPassword), registrytest.WithBlobRedirect())
	layer := []byte(strings.Repeat("0123456789", 10_000))
	image := up.PutImage("app", "1", layer)
	var mu sync.Mutex
	seen, received := make(map[string]int), 0
	r := client(t, up, withLogin, func(c *Config) {
		c.Hooks.Answered = func(op Operation, status int, took time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			if took <= 0 {
				t.Errorf("%s: got the time %v, want more than 0", op, took)
			}
			seen[fmt.Sprint(op, " ", status)]++
		}
		c.Hooks.Received = func(n int) {
			mu.Lock()
			defer mu.Unlock()
			received += n
		}
	})
	step := func(what string, err error, want ...string) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		mu.Lock()
		defer mu.Unlock()
		if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, want) {
			t.Errorf("%s: got the requests %v, want %v", what, seen, want)
		}
		clear(seen)
	}
	_, err := r.ResolveManifest(t.Context(), "app", "1")
	step("HEAD", err, "head 200", "ping 401", "token 200")
	mu.Lock()
	received = 0
	mu.Unlock()
	_, err = r.Manifest(t.Context(), "app", "1")
	step("GET", err, "manifest 200")
	if want := len(up.RawManifest("app", image.Manifest)); received != want {
		t.Errorf("GET: got %d bytes received, want %d", received, want)
	}
	_, err = r.StatBlob(t.Context(), "app", digest.FromBytes(layer), -1)
	step("HEAD of a blob", err, "head 200", "head 307")
	received = 0
	body, err := r.Blob(t.Context(), "app", digest.FromBytes(layer), 0, -1, "")
	if err == nil {
		_, err = io.Copy(io.Discard, body)
		_ = body.Close()
	}
	step("GET of a blob", err, "blob 200", "blob 307")
	if received < len(layer) || received > len(layer)+4096 { // the body of the redirect is read too
		t.Errorf("GET of a blob: got %d bytes received, want the %d of the blob", received, len(layer))
	}
	_, err = r.Tags(t.Context(), "app", nil)
	step("tags", err, "tags 200")
	_, err = r.Referrers(t.Context(), "app", image.Manifest, "")
	step("referrers", err, "referrers 200")
	up.Close()
	if _, err = r.Manifest(t.Context(), "app", "1"); err == nil {
		t.Error("closed registry: got no error")
	}
	step("closed registry", nil, "manifest 0")
}
