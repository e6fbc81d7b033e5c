package upstream

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

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
	synctest.Test(t, func(t *testing.T) {
		var tokens, manifests atomic.Int32
		answer := make(chan struct{})
		u := clientAt(t, "http://h", roundTripper(func(r *http.Request) (*http.Response, error) {
			resp := &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, ContentLength: -1, Request: r}
			content := `{"schemaVersion":2,"manifests":[]}`
			switch {
			case r.URL.Path == "/token":
				tokens.Add(1)
				<-answer
				content = `{"token":"t"}`
			case r.Header.Get("Authorization") == "":
				resp.StatusCode = http.StatusUnauthorized
				resp.Header.Set("WWW-Authenticate", `Bearer realm="http://h/token",service="h"`)
			default:
				manifests.Add(1)
				resp.Header.Set("Content-Type", v1.MediaTypeImageIndex)
			}
			resp.Body = io.NopCloser(strings.NewReader(content))
			return resp, nil
		}))
		pull := func(ctx context.Context) error {
			_, err := u.Manifest(ctx, "a", "1")
			return err
		}
		ctx, leave := context.WithCancel(t.Context())
		left := make(chan error)
		go func() { left <- pull(ctx) }()
		synctest.Wait()
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if err := pull(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait() // until all wait for the token
		leave()
		if err := <-left; !errors.Is(err, context.Canceled) || KindOf(err) != Other {
			t.Errorf("canceled caller: got %v, want %v of kind other", err, context.Canceled)
		}
		close(answer)
		all.Wait()
		if tokens.Load() != 1 || manifests.Load() != 8 {
			t.Errorf("got %d token requests and %d GETs, want 1 and 8", tokens.Load(), manifests.Load())
		}
	})
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
