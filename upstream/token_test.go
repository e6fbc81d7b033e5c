package upstream

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

func TestRegistryRenewsTokens(t *testing.T) {
	r := registrytest.New(t, registrytest.WithToken("", ""))
	r.SetTokenLife(5 * time.Minute)
	r.PutImage("a", "1", []byte("x"))
	u := client(t, r)
	start := time.Now()
	now := start
	u.now = func() time.Time { return now }
	pull := func(want int) {
		t.Helper()
		if _, err := u.Manifest(t.Context(), "a", "1"); err != nil {
			t.Fatal(err)
		}
		if got := r.Counts().Token; got != want {
			t.Errorf("after %v: got %d token requests, want %d", now.Sub(start), got, want)
		}
	}
	pull(1)
	now = start.Add(239 * time.Second)
	pull(1)
	now = start.Add(240 * time.Second)
	pull(2)

	// A token that the registry rejects is replaced.
	r.RevokeTokens()
	r.Reset()
	pull(1)
	if got := r.Counts(); got.Challenged != 1 || got.ManifestGet != 1 {
		t.Errorf("got requests %+v, want 1 challenge and 1 GET", got)
	}
}

// TestRegistrySharesTokenRequest checks that concurrent callers share a token request,
// and that it goes on if the caller that started it leaves.
func TestRegistrySharesTokenRequest(t *testing.T) {
	r := registrytest.New(t, registrytest.WithToken("", ""))
	r.PutImage("a", "1", []byte("x"))
	asked, answer := make(chan struct{}), make(chan struct{})
	r.SetFault(func(_ http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path == "/token" {
			close(asked) // a second request would panic
			<-answer
		}
		return false
	})
	u := client(t, r)

	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error)
	go func() {
		_, err := u.Manifest(ctx, "a", "1")
		left <- err
	}()
	<-asked
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := u.Manifest(t.Context(), "a", "1"); err != nil {
				t.Error(err)
			}
		})
	}
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) || KindOf(err) != Other {
		t.Errorf("canceled caller: got %v, want %v of kind other", err, context.Canceled)
	}
	close(answer)
	wg.Wait()
	if got := r.Counts(); got.Token != 1 || got.ManifestGet != 8 {
		t.Errorf("got requests %+v, want 1 token request and 8 GETs", got)
	}
}

// TestRegistryRetriesFailedTokenRequest checks that the failure of a token request is
// not cached.
func TestRegistryRetriesFailedTokenRequest(t *testing.T) {
	r := registrytest.New(t, registrytest.WithToken("", ""))
	r.PutImage("a", "1", []byte("x"))
	u := client(t, r)
	r.Fail(registrytest.Failure{Op: registrytest.OpToken, Status: 503, Times: 1})
	_, err := u.Manifest(t.Context(), "a", "1")
	wantKind(t, err, Unavailable)
	if _, err := u.Manifest(t.Context(), "a", "1"); err != nil {
		t.Errorf("second request: %v", err)
	}
}
