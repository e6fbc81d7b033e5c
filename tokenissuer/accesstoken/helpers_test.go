package accesstoken

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/internal/record/recordtest"
)

func newNode(s Storage, c *recordtest.Clock) *Store { return New(Config{Storage: s, Now: c.Now}) }

var (
	deploy   = Token{Kind: Deploy, Name: "runner 7", Groups: []string{"acme"}, Scopes: []Scope{Pull}}
	personal = Token{Kind: Personal, Owner: &Owner{Name: "alice", Directory: "static", Facts: "f"}, Scopes: []Scope{Pull, Manage}}
	ofGroup  = Token{Kind: Group, Groups: []string{"acme/sub"}, Role: "owner", Scopes: []Scope{Pull, Manage}, Site: "one", CreatedBy: "mia"}
)

// create creates a token and returns it with its secret.
func create(t testing.TB, s *Store, token Token, lifetime time.Duration) (Token, string) {
	t.Helper()
	created, secret, err := s.Create(t.Context(), token, lifetime)
	if err != nil {
		t.Fatal(err)
	}
	return created, secret
}

func accept(t testing.TB, s *Store, secret string) Token {
	t.Helper()
	token, err := s.Verify(t.Context(), secret)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func refuse(t testing.TB, s *Store, secret string, want error) {
	t.Helper()
	_, err := s.Verify(t.Context(), secret)
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
	if IsRefusal(err) == errors.Is(err, ErrUnavailable) {
		t.Errorf("got error %v, want either a refusal or ErrUnavailable", err)
	}
	if strings.Contains(err.Error(), secret) {
		t.Errorf("got error %v, want one without the secret", err)
	}
}

// revoke revokes a token.
func revoke(t testing.TB, s *Store, id string) {
	t.Helper()
	if _, err := s.Revoke(t.Context(), id, "mia", always); err != nil {
		t.Fatal(err)
	}
}

func always(Token) bool { return true }

// storedName returns the storage key of a token's file.
func storedName(id string) string { return prefix + "/" + tokenName(id) }

// storedRevocation returns the storage key of a token's revocation.
func storedRevocation(id string) string { return prefix + "/" + revocationName(id) }
