package tokenissuer

import (
	"bytes"
	"errors"
	"io/fs"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/internal/record/recordtest"
)

// TestIssuerDerived checks that nodes with the same keys derive the same secrets, one
// for each purpose and key, and none for a key that does not exist.
func TestIssuerDerived(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	node, other := newNode(s, c, 24*time.Hour), newNode(s, c, 24*time.Hour)
	id, secret, err := node.Derived("records")(t.Context(), "")
	if err != nil || len(secret) != 32 || id != signerOf(t, node) {
		t.Fatalf("got %q, %d bytes, %v; want a secret of the key that signs", id, len(secret), err)
	}
	if same, got, err := other.Derived("records")(t.Context(), id); same != id || !bytes.Equal(got, secret) || err != nil {
		t.Errorf("another node: %q, %v, equal %v; want the same secret", same, err, bytes.Equal(got, secret))
	}
	if _, got, err := node.Derived("other")(t.Context(), id); bytes.Equal(got, secret) || err != nil {
		t.Errorf("another purpose: %v, equal %v; want another secret", err, bytes.Equal(got, secret))
	}
	foreign := newNode(recordtest.NewStorage(t), c, 0)
	for _, unknown := range []string{id, "../" + id, "x"} {
		if _, _, err := foreign.Derived("records")(t.Context(), unknown); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("an unknown key %q: %v, want %v", unknown, err, fs.ErrNotExist)
		}
	}
	s.Err = errors.New("the storage is away")
	if _, _, err := newNode(s, c, 0).Derived("records")(t.Context(), id); !errors.Is(err, ErrKeysUnavailable) {
		t.Errorf("without the storage: %v, want %v", err, ErrKeysUnavailable)
	}
}

// TestIssuerDerivedRotation checks that a secret is known while its key is, and that
// the one in use changes with the key.
func TestIssuerDerivedRotation(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	node := newNode(s, c, 24*time.Hour)
	id, secret, _ := node.Derived("records")(t.Context(), "")
	for range 25 * 60 {
		c.Advance(time.Minute)
		signerOf(t, node)
	}
	now, _, err := node.Derived("records")(t.Context(), "")
	if now == id || err != nil {
		t.Errorf("got %q, %v after a rotation; want another key than %q", now, err, id)
	}
	if _, got, err := node.Derived("records")(t.Context(), id); !bytes.Equal(got, secret) || err != nil {
		t.Errorf("the earlier secret: %v, equal %v; want it unchanged", err, bytes.Equal(got, secret))
	}
	c.Advance(48 * time.Hour)
	relist(t, node)
	if _, _, err := node.Derived("records")(t.Context(), id); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after the key was deleted: %v, want %v", err, fs.ErrNotExist)
	}
}
