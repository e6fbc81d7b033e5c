package tokenissuer

import (
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/internal/record/recordtest"
)

const testIssuer = "https://registry.example.com"

// newNode returns an issuer with a token lifetime of twelve hours.
func newNode(s Storage, c *recordtest.Clock, rotate time.Duration) *Issuer {
	return New(Config{Storage: s, Rotate: rotate, TokenLifetime: 12 * time.Hour, Now: c.Now})
}

func request(name string) MintRequest {
	return MintRequest{
		Issuer:   testIssuer,
		Identity: Identity{Name: name, Version: "7", Directory: "static", Facts: `{"id":7}`},
		Lifetime: 15 * time.Minute,
		Use:      Access,
	}
}

func mint(t testing.TB, i *Issuer, r MintRequest) Token {
	t.Helper()
	token, err := i.Mint(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// accept verifies a token of request("alice").
func accept(t testing.TB, i *Issuer, raw string) {
	t.Helper()
	id, err := i.Verify(t.Context(), raw, testIssuer, Access)
	if want := request("alice").Identity; err != nil || id != want {
		t.Fatalf("got identity %+v, error %v, want %+v", id, err, want)
	}
}

func refuse(t testing.TB, i *Issuer, raw string, want error) {
	t.Helper()
	id, err := i.Verify(t.Context(), raw, testIssuer, Access)
	if !errors.Is(err, want) || id != (Identity{}) {
		t.Fatalf("got identity %+v, error %v, want none and %v", id, err, want)
	}
}

// part decodes the header (0) or payload (1) of a token into v.
func part(t testing.TB, raw string, n int, v any) {
	t.Helper()
	text, err := b64.DecodeString(strings.Split(raw, ".")[n])
	if err == nil {
		err = json.Unmarshal(text, v)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// expiry returns the exp claim of a token.
func expiry(t testing.TB, raw string) time.Time {
	t.Helper()
	var payload struct{ Exp int64 }
	part(t, raw, 1, &payload)
	return time.Unix(payload.Exp, 0)
}

// signerOf returns the kid of the key with which i signs now.
func signerOf(t testing.TB, i *Issuer) string {
	t.Helper()
	return kidOf(t, mint(t, i, request("alice")).Raw)
}

// kidOf returns the kid in the header of a token.
func kidOf(t testing.TB, raw string) string {
	t.Helper()
	var header struct{ Kid string }
	part(t, raw, 0, &header)
	return header.Kid
}

// keysOf returns the keys that i knows, in order of their creation.
func keysOf(i *Issuer) []*key { return i.ring.keys.Load().sorted }

// relist makes i list its storage.
func relist(t testing.TB, i *Issuer) {
	t.Helper()
	if _, err := i.ring.refresh(t.Context()); err != nil {
		t.Error(err)
	}
}

// merged returns the members of m, with some of them changed.
func merged(m, change map[string]any) map[string]any {
	m = maps.Clone(m)
	maps.Copy(m, change)
	return m
}
