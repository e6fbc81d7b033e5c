package oidc

import (
	"net/http"
	"testing"

	"github.com/go-jose/go-jose/v4"
)

// panicking is a transport with a bug.
type panicking struct{}

func (panicking) RoundTrip(*http.Request) (*http.Response, error) { panic("a guest transport") }

// TestIssuerKeysForPanics checks that a panic while keys are fetched reaches the
// caller, which fails the login, and does not end the process.
func TestIssuerKeysForPanics(t *testing.T) {
	i := newIssuer("https://issuer.example", panicking{})
	defer func() {
		if recover() == nil {
			t.Error("got no panic, want that of the transport")
		}
	}()
	_, _ = i.keysFor(t.Context(), jose.Header{KeyID: "x", Algorithm: "RS256"})
}
