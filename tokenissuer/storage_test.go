package tokenissuer

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"
	"testing"
	"time"
)

func TestStorageAway(t *testing.T) {
	s, c := newStorage(t), newClock()
	s.fail = errAway
	var reported []error
	node := New(Config{KeyRing: NewKeyRing(KeyRingConfig{
		Storage: s, Rotate: time.Hour, Now: c.now,
		Hooks: Hooks{StorageError: func(err error) { reported = append(reported, err) }},
	})})
	if _, err := node.Mint(t.Context(), request("alice")); !errors.Is(err, ErrKeysUnavailable) || !errors.Is(err, errAway) {
		t.Errorf("mint without a key: %v", err)
	}
	if _, err := node.JWKS(t.Context()); !errors.Is(err, ErrKeysUnavailable) {
		t.Errorf("key set: %v", err)
	}
	stranger := mint(t, newNode(newStorage(t), c, 0), request("alice")).Raw
	refuse(t, node, stranger, ErrKeysUnavailable)
	if _, err := node.Verify(t.Context(), stranger, testIssuer, Access); errors.Is(err, ErrInvalidToken) {
		t.Error("a token that could not be judged is called invalid")
	}

	s.fail = nil
	raw := mint(t, node, request("alice")).Raw
	s.fail = errAway
	reported = nil
	// Hours past the rotation the old key still does it all.
	for range 100 {
		c.advance(2 * time.Minute)
		accept(t, node, mint(t, node, request("alice")).Raw)
	}
	if len(reported) != 100 || !errors.Is(reported[0], errAway) {
		t.Errorf("%d reports", len(reported))
	}
	if jwks, err := node.JWKS(t.Context()); err != nil || !strings.Contains(string(jwks), `"kid"`) {
		t.Errorf("key set: %s, %v", jwks, err)
	}
	refuse(t, node, raw, ErrTokenExpired)
}

// TestStoreFails: what is not stored signs nothing.
func TestStoreFails(t *testing.T) {
	s, c := newStorage(t), newClock()
	s.store = errAway
	node := newNode(s, c, time.Hour)
	for range 3 {
		if _, err := node.Mint(t.Context(), request("alice")); !errors.Is(err, ErrKeysUnavailable) || !errors.Is(err, errAway) {
			t.Errorf("got %v", err)
		}
	}
	if len(node.ring.keys.Load().sorted) != 0 {
		t.Error("the ring knows a key that storage does not")
	}
	s.store = nil
	first := kidOf(t, node)
	s.store = errAway
	c.advance(2 * time.Hour)
	if kidOf(t, node) != first {
		t.Error("signs with a key that is not stored")
	}
}

func TestBadFiles(t *testing.T) {
	s, c := newStorage(t), newClock()
	good := newNode(s, c, 0)
	raw := mint(t, good, request("alice")).Raw
	k := good.ring.keys.Load().sorted[0]
	other, _ := newKey(c.now(), time.Time{})
	strange, _ := newKey(c.now().Add(time.Second), time.Time{})
	content, _ := other.encode()
	text := string(content)
	bad := map[string]string{
		other.name(): text[:len(text)/2],
		strings.Replace(other.name(), other.kid, strange.kid, 1): text,
		strings.Replace(other.name(), "20261123", "20261122", 1): text,
		strange.name(): strings.Replace(text, `"x":"`, `"x":"A`, 1),
		"20260101T000000.000Z-" + k.kid[:42] + "A.json":             strings.Repeat(" ", maxKeyFile+1),
		"20260101T000000.000Z-" + strings.Repeat("A", 43) + ".json": "",
		"20260102T000000.000Z-" + strings.Repeat("A", 43) + ".json": "null",
		"20260103T000000.000Z-" + strings.Repeat("A", 43) + ".json": `{"kty":"RSA"}`,
		"20260104T000000.000Z-" + strings.Repeat("A", 43) + ".json": `{"kty":"OKP","crv":"Ed25519","d":"AAAA"}`,
	}
	for name, content := range bad {
		s.files[DefaultPrefix+"/"+name] = []byte(content)
	}
	for _, name := range []string{"283746", "README", "x.json", k.kid + ".json", "20260101T000000.000Z-short.json"} {
		s.files[DefaultPrefix+"/"+name] = []byte("not a key's name, not our business")
	}
	reports := map[string]int{}
	node := New(Config{KeyRing: NewKeyRing(KeyRingConfig{Storage: s, Now: c.now, Hooks: Hooks{
		BadKey: func(name string, err error) {
			if err == nil || strings.Contains(err.Error(), b64.EncodeToString(other.private.Seed())) {
				t.Errorf("%s: %v", name, err)
			}
			reports[name]++
		},
	}})})
	for range 3 {
		accept(t, node, raw)
		if err := node.ring.Refresh(t.Context()); err != nil {
			t.Error(err)
		}
	}
	delete(bad, "20260101T000000.000Z-"+k.kid[:42]+"A.json") // may or may not be canonical
	for name := range bad {
		if reports[name] != 1 {
			t.Errorf("%s was reported %d times", name, reports[name])
		}
	}
	if len(node.ring.keys.Load().sorted) != 1 {
		t.Error("a bad key is in use")
	}
	// Mended, it is a key like any other.
	s.files[DefaultPrefix+"/"+other.name()] = content
	if err := node.ring.Refresh(t.Context()); err != nil || node.ring.keys.Load().byKid[other.kid] == nil || node.ring.bad[other.name()] {
		t.Errorf("the mended key is not known: %v", err)
	}
}

// partial is a storage that cannot read one of its files.
type partial struct {
	*memStorage
	unreadable string
	err        error
}

func (p partial) Load(ctx context.Context, key string) ([]byte, error) {
	if path.Base(key) == p.unreadable {
		return nil, p.err
	}
	return p.memStorage.Load(ctx, key)
}

func TestUnreadableFile(t *testing.T) {
	s, c := newStorage(t), newClock()
	good := newNode(s, c, 0)
	raw := mint(t, good, request("alice")).Raw
	// Older, so that it is the one that signs.
	lost, _ := newKey(c.now().Add(-time.Second), time.Time{})
	content, _ := lost.encode()
	s.files[DefaultPrefix+"/"+lost.name()] = content

	node := newNode(partial{s, lost.name(), fs.ErrPermission}, c, 0)
	accept(t, node, raw)
	if err := node.ring.Refresh(t.Context()); err != nil {
		t.Errorf("a forbidden file stops the listing: %v", err)
	}
	// An error that may pass is storage trouble, but the other keys count.
	node = newNode(partial{s, lost.name(), errAway}, c, 0)
	accept(t, node, raw)
	byLost := newNode(s, c, 0)
	byLost.ring.replace([]*key{lost}, nil)
	refuse(t, node, mint(t, byLost, request("alice")).Raw, ErrKeysUnavailable)
}

// TestRemovedKey: to delete a key's file is to end its tokens, remembered ones
// included. A listing that merely lags behind ends nothing.
func TestRemovedKey(t *testing.T) {
	s, c := newStorage(t), newClock()
	node := newNode(s, c, 0)
	raw := mint(t, node, request("alice")).Raw
	accept(t, node, raw)
	s.hidden = true
	if err := node.ring.Refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	accept(t, node, raw)
	s.hidden = false
	clear(s.files)
	accept(t, node, raw) // not listed yet
	c.advance(RefreshInterval)
	fresh := mint(t, node, request("alice")).Raw
	refuse(t, node, raw, ErrInvalidToken)
	accept(t, node, fresh)
}

// TestPanickingStorage: a panic passes through and leaves the ring usable.
func TestPanickingStorage(t *testing.T) {
	s, c := newStorage(t), newClock()
	node := newNode(s, c, 0)
	s.listing = func(context.Context) { panic("storage") }
	func() {
		defer func() {
			if recover() == nil {
				t.Error("the panic was swallowed")
			}
		}()
		_, _ = node.Mint(t.Context(), request("alice"))
	}()
	s.listing = nil
	accept(t, node, mint(t, node, request("alice")).Raw)
}

// TestTornListing: a listing in which a file vanished is asked again.
func TestTornListing(t *testing.T) {
	s, c := newStorage(t), newClock()
	raw := mint(t, newNode(s, c, 0), request("alice")).Raw
	s.hidden = true
	s.listing = func(context.Context) {
		s.set(func() { s.hidden = s.lists%2 != 0 })
	}
	s.lists = 0
	accept(t, newNode(s, c, 0), raw)
}
