package tokenissuer

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/internal/record/recordtest"
)

func seal(t testing.TB, i *Issuer, text string, bound ...string) string {
	t.Helper()
	sealed, err := i.Seal(t.Context(), text, bound...)
	if err != nil {
		t.Fatal(err)
	}
	return sealed
}

// opens checks that i opens sealed as text, or with the error want.
func opens(t testing.TB, i *Issuer, sealed, text string, want error, bound ...string) {
	t.Helper()
	got, err := i.Open(t.Context(), sealed, bound...)
	if got != text || !errors.Is(err, want) || (err == nil) != (want == nil) {
		t.Errorf("got %q, error %v; want %q, %v", got, err, text, want)
	}
}

// TestIssuerSeal checks that a sealed text is opened by each node with the same keys,
// for an hour, and only with what it is bound to.
func TestIssuerSeal(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	node, other := newNode(s, c, 0), newNode(s, c, 0)
	const text = "page=2&token=readable"
	sealed := seal(t, node, text, "scope", "alice")
	if strings.Trim(sealed, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.") != "" {
		t.Errorf("got %q, want only characters that need no escape", sealed)
	}
	if again := seal(t, node, text, "scope", "alice"); again == sealed || strings.Contains(sealed, "readable") {
		t.Errorf("got %q and %q, want two different texts that do not show what they contain", sealed, again)
	}
	opens(t, node, sealed, text, nil, "scope", "alice")
	opens(t, other, sealed, text, nil, "scope", "alice")
	for _, bound := range [][]string{nil, {"scope"}, {"scope", "bob"}, {"scopealice"}, {"scop", "ealice"}, {"scope", "alice", ""}, {"alice", "scope"}} {
		opens(t, node, sealed, "", ErrInvalidToken, bound...)
	}
	opens(t, newNode(recordtest.NewStorage(t), c, 0), sealed, "", ErrInvalidToken, "scope", "alice")
	c.Advance(SealedLifetime - time.Second)
	opens(t, node, sealed, text, nil, "scope", "alice")
	c.Advance(time.Second)
	opens(t, node, sealed, "", ErrTokenExpired, "scope", "alice")
	opens(t, node, sealed, "", ErrInvalidToken, "scope", "alice")

	longest := strings.Repeat("x", MaxSealed)
	opens(t, node, seal(t, node, longest), longest, nil)
	opens(t, node, seal(t, node, ""), "", nil)
	if _, err := node.Seal(t.Context(), longest+"x"); err == nil || errors.Is(err, ErrKeysUnavailable) {
		t.Errorf("got error %v for a text that is too long, want another", err)
	}
}

// TestIssuerSealRotation checks that a text is opened after the keys were rotated, and
// not after its key was deleted.
func TestIssuerSealRotation(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	node, other := newNode(s, c, 24*time.Hour), newNode(s, c, 24*time.Hour)
	old := signerOf(t, node)
	c.Advance(24*time.Hour - time.Minute)
	sealed := seal(t, node, "text")
	for range 50 {
		c.Advance(time.Minute)
		signerOf(t, node)
	}
	if signerOf(t, node) == old {
		t.Fatal("the key was not rotated")
	}
	opens(t, node, sealed, "text", nil)
	opens(t, other, sealed, "text", nil)

	sealed = seal(t, node, "text")
	for _, name := range s.Keys() {
		if err := s.Delete(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	relist(t, node)
	opens(t, node, sealed, "", ErrInvalidToken)
}

// TestIssuerSealWithoutStorage checks that a storage that does not answer is not
// blamed on the client.
func TestIssuerSealWithoutStorage(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	sealed := seal(t, newNode(s, c, 0), "text")
	s.Set(func() { s.Err = errors.New("away") })
	opens(t, newNode(s, c, 0), sealed, "", ErrKeysUnavailable)
	if _, err := newNode(s, c, 0).Seal(t.Context(), "text"); !errors.Is(err, ErrKeysUnavailable) {
		t.Errorf("got error %v, want ErrKeysUnavailable", err)
	}
}

// FuzzOpen checks that only the text that was sealed is opened.
func FuzzOpen(f *testing.F) {
	node := newNode(recordtest.NewStorage(f), recordtest.NewClock(), 0)
	good := seal(f, node, "text", "scope")
	kid, rest, _ := strings.Cut(good, ".")
	f.Add(good)
	f.Add(good + "A")
	f.Add(kid + "." + rest[:len(rest)-1])
	f.Add(kid + ".")
	f.Add(kid + "." + strings.Repeat("A", 48))
	f.Add("." + rest)
	f.Add("")
	f.Fuzz(func(t *testing.T, sealed string) {
		if text, err := node.Open(t.Context(), sealed, "scope"); sealed != good && (text != "" || !errors.Is(err, ErrInvalidToken)) {
			t.Fatalf("%q: got %q, error %v, want ErrInvalidToken", sealed, text, err)
		}
	})
}
