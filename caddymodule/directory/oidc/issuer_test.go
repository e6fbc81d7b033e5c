package oidc

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/go-jose/go-jose/v4"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/oidctest"
)

// inMemory is a transport to an issuer without a network, for a fake clock.
type inMemory struct {
	*oidctest.Issuer
	slow  time.Duration
	fails bool
}

func (m *inMemory) RoundTrip(r *http.Request) (*http.Response, error) {
	if m.fails {
		return nil, errors.New("no route to the issuer")
	}
	select {
	case <-time.After(m.slow):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	recorder := httptest.NewRecorder()
	m.ServeHTTP(recorder, r)
	return recorder.Result(), nil
}

// inTime runs a test with a fake clock, an issuer and its client.
func inTime(t *testing.T, test func(t *testing.T, issuer *inMemory, asks *issuer)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		issuer := &inMemory{Issuer: oidctest.NewAt(t, "https://issuer.example")}
		test(t, issuer, newIssuer(issuer.URL, issuer))
	})
}

func named(kid string) jose.Header { return jose.Header{KeyID: kid, Algorithm: "ES256"} }

// expectKeys asks for the keys with an id, and checks their number or the error.
func expectKeys(t *testing.T, asks *issuer, kid string, count int, reason string) {
	t.Helper()
	keys, err := asks.keysFor(t.Context(), named(kid))
	if len(keys) != count || (err == nil) != (reason == "") || err != nil && !strings.Contains(err.Error(), reason) {
		t.Errorf("%s: got %d keys, %v, want %d, %q", kid, len(keys), err, count, reason)
	}
}

// TestIssuerKeyRotation: a new key is asked for when a token names it, a key that is no
// longer published ends, and unknown keys are asked for at a limited rate.
func TestIssuerKeyRotation(t *testing.T) {
	inTime(t, func(t *testing.T, issuer *inMemory, asks *issuer) {
		expectKeys(t, asks, "one", 1, "")
		time.Sleep(issuerAgain)
		issuer.Rotate("two")
		expectKeys(t, asks, "one", 1, "")
		if issuer.Asked != 1 {
			t.Errorf("asked %d times, want 1, since the key is known", issuer.Asked)
		}
		expectKeys(t, asks, "two", 1, "")
		for range 10_000 {
			expectKeys(t, asks, "three", 0, "")
			time.Sleep(10 * time.Millisecond)
		}
		if issuer.Asked < 10 || issuer.Asked > 2+10 { // in 100 seconds
			t.Errorf("asked %d times, want 10 to 12", issuer.Asked)
		}
		issuer.Public = issuer.Public[1:]
		time.Sleep(keysFresh + time.Second)
		expectKeys(t, asks, "two", 1, "")
		expectKeys(t, asks, "one", 0, "")
		// A key has an algorithm, and a token that names none only what is alone.
		if keys, _ := asks.keysFor(t.Context(), jose.Header{KeyID: "two", Algorithm: "RS256"}); len(keys) != 0 {
			t.Error("a key is used with another's algorithm")
		}
		expectKeys(t, asks, "", 1, "")
		issuer.Rotate("four")
		time.Sleep(issuerAgain)
		expectKeys(t, asks, "four", 1, "")
		expectKeys(t, asks, "", 0, "")
	})
}

// TestIssuerAway: while the issuer is away, known keys are used for an hour. Then logins
// fail until it is back.
func TestIssuerAway(t *testing.T) {
	inTime(t, func(t *testing.T, issuer *inMemory, asks *issuer) {
		issuer.fails = true
		expectKeys(t, asks, "one", 0, "no route")
		issuer.fails = false
		expectKeys(t, asks, "one", 0, "no route") // not yet again
		time.Sleep(issuerAgain)
		expectKeys(t, asks, "one", 1, "")
		issuer.fails = true
		for age := time.Duration(0); age < keysUsable; age += time.Minute {
			expectKeys(t, asks, "one", 1, "")
			time.Sleep(time.Minute)
		}
		expectKeys(t, asks, "one", 0, "no route")
		issuer.fails = false
		time.Sleep(issuerAgain)
		expectKeys(t, asks, "one", 1, "")
		time.Sleep(issuerAgain)
		issuer.fails = true
		expectKeys(t, asks, "two", 0, "no route") // it may be a new one
		expectKeys(t, asks, "one", 1, "")
	})
}

// TestIssuerTimeout: a question has a timeout, all logins share it, and a client that
// leaves does not end it for the others.
func TestIssuerTimeout(t *testing.T) {
	inTime(t, func(t *testing.T, issuer *inMemory, asks *issuer) {
		issuer.slow = time.Hour
		began := time.Now()
		expectKeys(t, asks, "one", 0, "deadline")
		if took := time.Since(began); took != issuerTimeout {
			t.Errorf("waited for %v, want %v", took, issuerTimeout)
		}
		issuer.slow = 2 * time.Second
		time.Sleep(issuerAgain)
		began = time.Now()
		gone, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		var all sync.WaitGroup
		for i := range 10 {
			all.Go(func() {
				ctx := t.Context()
				if i < 5 {
					ctx = gone
				}
				keys, err := asks.keysFor(ctx, named("one"))
				if i < 5 && !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("a caller that has left got %v, want its context's error", err)
				}
				if i >= 5 && (len(keys) != 1 || err != nil) {
					t.Errorf("got %d keys and %v, want one", len(keys), err)
				}
			})
		}
		all.Wait()
		if took := time.Since(began); took != 4*time.Second || issuer.Asked != 1 {
			t.Errorf("waited for %v and asked %d times, want 4s and once", took, issuer.Asked)
		}
	})
}

// BenchmarkDirectoryAuthenticate measures a login with an id token, with remembered keys.
func BenchmarkDirectoryAuthenticate(b *testing.B) {
	issuer := oidctest.New(b)
	o := &Directory{Issuer: issuer.URL, Audiences: []string{"registry.example.com"}, Maps: []*Map{{Claim: "repository_owner", Value: "acme", Group: "acme"}}}
	if err := o.Provision(caddy.Context{}); err != nil {
		b.Fatal(err)
	}
	login := directory.Login{Name: "ci", Password: issuer.Token()}
	for b.Loop() {
		if _, err := o.Authenticate(b.Context(), login); err != nil {
			b.Fatal(err)
		}
	}
}

// TestDirectoryReach: an issuer that is away is down once its keys cannot be used any
// more, and is asked no more often than logins would ask it.
func TestDirectoryReach(t *testing.T) {
	inTime(t, func(t *testing.T, issuer *inMemory, asks *issuer) {
		d := &Directory{issuer: asks}
		reach := func(up bool) {
			t.Helper()
			for range 10 {
				if err := d.Reach(t.Context()); (err == nil) != up {
					t.Errorf("got %v, want up: %t", err, up)
				}
			}
		}
		reach(true)
		if issuer.Asked != 1 {
			t.Errorf("the issuer was asked %d times, want once", issuer.Asked)
		}
		issuer.fails = true
		time.Sleep(keysFresh)
		reach(true)
		time.Sleep(keysUsable)
		reach(false)
		issuer.fails = false
		time.Sleep(issuerAgain)
		reach(true)
	})
}
