package upstream

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

func TestParseToken(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, test := range []struct {
		content, value string
		renew          time.Duration
	}{
		{`{"token":"t"}`, "t", 48 * time.Second},
		{`{"access_token":"a"}`, "a", 48 * time.Second},
		{`{"token":"t","access_token":"a","expires_in":300}`, "t", 240 * time.Second},
		{`{"token":"t","expires_in":300.0}`, "t", 240 * time.Second},
		{`{"token":"t","expires_in":59}`, "t", 48 * time.Second},
		{`{"token":"t","expires_in":0}`, "t", 48 * time.Second},
		{`{"token":"t","expires_in":-1}`, "t", 48 * time.Second},
		{`{"token":"t","expires_in":null}`, "t", 48 * time.Second},
		{`{"token":"t","expires_in":"300"}`, "t", 48 * time.Second},
		{`{"token":"t","expires_in":1e300}`, "t", 48 * time.Minute},
		{`{"token":"t","issued_at":"nonsense","refresh_token":7}`, "t", 48 * time.Second},
		{`{}`, "", 0},
		{`[]`, "", 0},
		{``, "", 0},
		{`<html>`, "", 0},
		{`{"token":7}`, "", 0},
		{`{"token":"a b"}`, "", 0},
		{`{"token":"a\r\nX: y"}`, "", 0},
		{`{"token":"` + strings.Repeat("x", maxToken+1) + `"}`, "", 0},
	} {
		got, err := parseToken([]byte(test.content), now)
		if (err == nil) != (test.value != "") {
			t.Errorf("parseToken(%.80s): got %v, want valid %v", test.content, err, test.value != "")
		}
		if err == nil && (got.value != test.value || got.renewAt.Sub(now) != test.renew) {
			t.Errorf("parseToken(%s): got %s, renewed after %v, want %s after %v", test.content, got.value, got.renewAt.Sub(now), test.value, test.renew)
		}
	}
}

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
