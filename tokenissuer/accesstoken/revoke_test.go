package accesstoken

import (
	"errors"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/internal/record/recordtest"
)

// TestStoreRevoke checks that a revocation takes effect at once on the node that
// revoked the token, and after cacheFor on others.
func TestStoreRevoke(t *testing.T) {
	c := recordtest.NewClock()
	folder := t.TempDir()
	one := newNode(&certmagic.FileStorage{Path: folder}, c)
	other := newNode(&certmagic.FileStorage{Path: folder}, c)
	created, secret := create(t, one, personal, time.Hour)
	kept, keptSecret := create(t, other, deploy, time.Hour)
	accept(t, one, secret)
	accept(t, other, secret)
	c.Advance(cacheFor - time.Second)
	for range 2 { // the second time has no effect
		revoked, err := one.Revoke(t.Context(), created.ID, "mia", always)
		if err != nil || revoked.RevokedBy != "mia" || revoked.Revoked.IsZero() {
			t.Fatalf("got %+v, error %v, want it revoked by mia", revoked, err)
		}
	}
	refuse(t, one, secret, ErrRevoked)
	accept(t, other, secret)
	c.Advance(time.Second)
	refuse(t, other, secret, ErrRevoked)
	refuse(t, newNode(&certmagic.FileStorage{Path: folder}, c), secret, ErrRevoked)
	accept(t, one, keptSecret)
	for _, node := range []*Store{one, other} {
		tokens, err := node.List(t.Context())
		if err != nil || len(tokens) != 2 {
			t.Fatalf("got tokens %+v, error %v, want 2", tokens, err)
		}
		for _, token := range tokens {
			if token.Revoked.IsZero() != (token.ID == kept.ID) {
				t.Errorf("got %+v, want only %s revoked", token, created.ID)
			}
		}
	}
	for _, id := range []string{"", "x", secret, strings.Repeat("a", 16), "../../certificates", strings.ToUpper(created.ID)} {
		if _, err := one.Revoke(t.Context(), id, "", always); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: got error %v, want fs.ErrNotExist", id, err)
		}
	}
	if _, err := one.Revoke(t.Context(), kept.ID, "", func(t Token) bool { return t.ID != kept.ID }); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a token that may not be revoked: got error %v, want fs.ErrNotExist", err)
	}
	accept(t, one, keptSecret)
}

// TestStoreRevokeDuringLookup checks that a token that was read before its
// revocation is not accepted after it.
func TestStoreRevokeDuringLookup(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	node := newNode(s, c)
	created, secret := create(t, node, deploy, time.Hour)
	var once sync.Once
	s.OnLoad = func(key string) {
		if strings.HasSuffix(key, ".revoked") { // read before the revocation is stored
			once.Do(func() {
				s.Set(func() { s.OnLoad = nil })
				if _, err := node.Revoke(t.Context(), created.ID, "", always); err != nil {
					t.Error(err)
				}
			})
		}
	}
	refuse(t, node, secret, ErrRevoked)
	refuse(t, node, secret, ErrRevoked)
}

// TestStoreDelayedStorage checks that a node rejects a token that it has revoked
// even if the storage does not show the revocation yet, and that a damaged
// revocation counts too.
func TestStoreDelayedStorage(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	node := newNode(s, c)
	created, secret := create(t, node, deploy, time.Hour)
	revoke(t, node, created.ID)
	s.Delayed[storedRevocation(created.ID)] = true
	for range 5 {
		refuse(t, node, secret, ErrRevoked)
		if tokens, err := node.List(t.Context()); err != nil || len(tokens) != 1 || tokens[0].Revoked.IsZero() {
			t.Errorf("got tokens %+v, error %v, want one that is revoked", tokens, err)
		}
		c.Advance(cacheFor)
	}
	delete(s.Delayed, storedRevocation(created.ID))
	s.Files[storedRevocation(created.ID)] = []byte("damaged")
	refuse(t, newNode(s, c), secret, ErrRevoked)
	// A token whose file has been deleted is absent.
	delete(s.Files, storedName(created.ID))
	refuse(t, newNode(s, c), secret, fs.ErrNotExist)
}

// TestStoreRevocationAway checks that a token is not accepted if its revocation
// cannot be read, and that a revocation that was stored despite an error takes
// effect at once.
func TestStoreRevocationAway(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	node := newNode(s, c)
	created, secret := create(t, node, deploy, time.Hour)
	s.Set(func() { s.FailSuffix = ".revoked" })
	refuse(t, node, secret, ErrUnavailable)
	s.Set(func() { s.FailSuffix = "" })
	accept(t, node, secret)
	s.OnLoad = func(key string) { // fail after Revoke has read that there is none
		if strings.HasSuffix(key, ".revoked") {
			s.Set(func() { s.FailSuffix, s.OnLoad = ".revoked", nil })
		}
	}
	if _, err := node.Revoke(t.Context(), created.ID, "", always); !errors.Is(err, ErrUnavailable) {
		t.Errorf("Revoke: got error %v, want ErrUnavailable", err)
	}
	s.Set(func() { s.FailSuffix = "" })
	refuse(t, node, secret, ErrRevoked)
}
