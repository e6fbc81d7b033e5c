package tokenissuer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/internal/record/recordtest"
)

func TestKeyRingStorageAway(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	s.Err = recordtest.ErrAway
	var reported []error
	node := New(Config{
		Storage: s, Rotate: time.Hour, Now: c.Now,
		Hooks: Hooks{StorageError: func(err error) { reported = append(reported, err) }},
	})
	if _, err := node.Mint(t.Context(), request("alice")); !errors.Is(err, ErrKeysUnavailable) || !errors.Is(err, recordtest.ErrAway) {
		t.Errorf("Mint without a key: got error %v, want ErrKeysUnavailable", err)
	}
	if _, err := node.JWKS(t.Context()); !errors.Is(err, ErrKeysUnavailable) {
		t.Errorf("JWKS without a key: got error %v, want ErrKeysUnavailable", err)
	}
	stranger := mint(t, newNode(recordtest.NewStorage(t), c, 0), request("alice")).Raw
	refuse(t, node, stranger, ErrKeysUnavailable)
	if _, err := node.Verify(t.Context(), stranger, testIssuer, Access); errors.Is(err, ErrInvalidToken) {
		t.Errorf("Verify without a key: got error %v, want no ErrInvalidToken", err)
	}

	s.Err = nil
	raw := mint(t, node, request("alice")).Raw
	s.Err = recordtest.ErrAway
	reported = nil
	// The old key continues to sign and verify long after the rotation is due.
	for range 100 {
		c.Advance(2 * time.Minute)
		accept(t, node, mint(t, node, request("alice")).Raw)
	}
	if len(reported) != 100 || !errors.Is(reported[0], recordtest.ErrAway) {
		t.Errorf("got %d reports of %v, want 100", len(reported), reported)
	}
	if jwks, err := node.JWKS(t.Context()); err != nil || !strings.Contains(string(jwks), `"kid"`) {
		t.Errorf("got key set %s, error %v, want one key", jwks, err)
	}
	refuse(t, node, raw, ErrTokenExpired)
}

// TestKeyRingStoreFails checks that a key that cannot be stored does not sign.
func TestKeyRingStoreFails(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	s.StoreErr = recordtest.ErrAway
	node := newNode(s, c, time.Hour)
	for range 3 {
		if _, err := node.Mint(t.Context(), request("alice")); !errors.Is(err, ErrKeysUnavailable) || !errors.Is(err, recordtest.ErrAway) {
			t.Errorf("got error %v, want ErrKeysUnavailable", err)
		}
	}
	if n := len(keysOf(node)); n != 0 {
		t.Errorf("got %d known keys, want 0", n)
	}
	s.StoreErr = nil
	first := signerOf(t, node)
	s.StoreErr = recordtest.ErrAway
	c.Advance(2 * time.Hour)
	if got := signerOf(t, node); got != first {
		t.Errorf("got signer %s, want %s", got, first)
	}
}

func TestKeyRingBadFiles(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	good := newNode(s, c, 0)
	raw := mint(t, good, request("alice")).Raw
	k := keysOf(good)[0]
	other, _ := newKey(c.Now(), time.Time{})
	strange, _ := newKey(c.Now().Add(time.Second), time.Time{})
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
		s.Files[defaultPrefix+"/"+name] = []byte(content)
	}
	for _, name := range []string{"283746", "README", "x.json", k.kid + ".json", "20260101T000000.000Z-short.json"} {
		s.Files[defaultPrefix+"/"+name] = []byte("not the name of a key")
	}
	reports := map[string]int{}
	node := New(Config{Storage: s, Now: c.Now, Hooks: Hooks{
		BadKey: func(name string, err error) {
			if err == nil || strings.Contains(err.Error(), b64.EncodeToString(other.private.Seed())) {
				t.Errorf("%s: got error %v, want one without the key", name, err)
			}
			reports[name]++
		},
	}})
	for range 3 {
		accept(t, node, raw)
		relist(t, node)
	}
	delete(bad, "20260101T000000.000Z-"+k.kid[:42]+"A.json") // may or may not be canonical
	for name := range bad {
		if reports[name] != 1 {
			t.Errorf("%s: got %d reports, want 1", name, reports[name])
		}
	}
	if n := len(keysOf(node)); n != 1 {
		t.Errorf("got %d known keys, want only the good one", n)
	}
	// A repaired key is used.
	s.Files[defaultPrefix+"/"+other.name()] = content
	relist(t, node)
	if node.ring.keys.Load().byKid[other.kid] == nil || node.ring.bad[other.name()] {
		t.Error("got no key for the repaired file, or it is still bad")
	}
}

// partial is a storage in which one file cannot be read.
type partial struct {
	*recordtest.Storage
	unreadable string
	err        error
}

func (p partial) Load(ctx context.Context, key string) ([]byte, error) {
	if path.Base(key) == p.unreadable {
		return nil, p.err
	}
	return p.Storage.Load(ctx, key)
}

func TestKeyRingUnreadableFile(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	good := newNode(s, c, 0)
	raw := mint(t, good, request("alice")).Raw
	// An older key, so that it is the one that signs.
	lost, _ := newKey(c.Now().Add(-time.Second), time.Time{})
	content, _ := lost.encode()
	s.Files[defaultPrefix+"/"+lost.name()] = content

	node := newNode(partial{s, lost.name(), fs.ErrPermission}, c, 0)
	accept(t, node, raw)
	relist(t, node) // a file that may not be read is not an error
	// Any other error is a storage error. The other keys are used nevertheless.
	node = newNode(partial{s, lost.name(), recordtest.ErrAway}, c, 0)
	accept(t, node, raw)
	byLost := newNode(s, c, 0)
	byLost.ring.change([]*key{lost}, nil)
	refuse(t, node, mint(t, byLost, request("alice")).Raw, ErrKeysUnavailable)
}

// TestKeyRingDeletedFile checks that deleting the file of a key ends its tokens,
// including remembered ones, and that an outdated listing does not.
func TestKeyRingDeletedFile(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	node := newNode(s, c, 0)
	raw := mint(t, node, request("alice")).Raw
	accept(t, node, raw)
	s.Unlisted = true
	relist(t, node)
	accept(t, node, raw)
	s.Unlisted = false
	clear(s.Files)
	accept(t, node, raw) // not listed yet
	c.Advance(refreshInterval)
	fresh := mint(t, node, request("alice")).Raw
	refuse(t, node, raw, ErrInvalidToken)
	accept(t, node, fresh)
}

// TestKeyRingStoragePanics checks that a panic of the storage reaches the caller
// and leaves the ring usable.
func TestKeyRingStoragePanics(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	node := newNode(s, c, 0)
	s.OnList = func(context.Context) { panic("storage") }
	func() {
		defer func() {
			if v := recover(); v == nil || !strings.Contains(fmt.Sprint(v), "storage") {
				t.Errorf("got panic %v, want that of the storage", v)
			}
		}()
		_, _ = node.Mint(t.Context(), request("alice"))
	}()
	s.OnList = nil
	accept(t, node, mint(t, node, request("alice")).Raw)
}

// TestKeyRingTornListing checks that a listing that fails because a file was
// deleted meanwhile is repeated.
func TestKeyRingTornListing(t *testing.T) {
	s, c := recordtest.NewStorage(t), recordtest.NewClock()
	raw := mint(t, newNode(s, c, 0), request("alice")).Raw
	s.Unlisted = true
	s.OnList = func(context.Context) {
		s.Set(func() { s.Unlisted = s.Lists%2 != 0 })
	}
	s.Lists = 0
	accept(t, newNode(s, c, 0), raw)
}
