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
			t.Errorf("%.80s: %v", test.content, err)
		}
		if err == nil && (got.value != test.value || got.renewAt.Sub(now) != test.renew) {
			t.Errorf("%s: %s, renewed after %v", test.content, got.value, got.renewAt.Sub(now))
		}
	}
}

func TestTokenLife(t *testing.T) {
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
			t.Errorf("%d tokens after %v, want %d", got, now.Sub(start), want)
		}
	}
	pull(1)
	now = start.Add(239 * time.Second)
	pull(1)
	now = start.Add(240 * time.Second)
	pull(2)

	// A token that the registry refuses is replaced, once.
	r.RevokeTokens()
	r.Reset()
	pull(1)
	if got := r.Counts(); got.Challenged != 1 || got.ManifestGet != 1 {
		t.Errorf("counts %+v", got)
	}
}

// TestTokenOnce checks that many who need the same token ask for it once, and
// that one who leaves does not take it from the others.
func TestTokenOnce(t *testing.T) {
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
		t.Errorf("the one who left got %v", err)
	}
	close(answer)
	wg.Wait()
	if got := r.Counts(); got.Token != 1 || got.ManifestGet != 8 {
		t.Errorf("counts %+v", got)
	}
}

// TestTokenFailureIsForgotten checks that a token service that failed is asked
// again by the next request.
func TestTokenFailureIsForgotten(t *testing.T) {
	r := registrytest.New(t, registrytest.WithToken("", ""))
	r.PutImage("a", "1", []byte("x"))
	u := client(t, r)
	r.Fail(registrytest.Failure{Op: registrytest.OpToken, Status: 503, Times: 1})
	_, err := u.Manifest(t.Context(), "a", "1")
	wantKind(t, err, Unavailable)
	if _, err := u.Manifest(t.Context(), "a", "1"); err != nil {
		t.Error(err)
	}
}
