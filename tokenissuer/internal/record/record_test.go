package record_test

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/internal/record"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/internal/record/recordtest"
)

func TestFolder(t *testing.T) {
	s := recordtest.NewStorage(t)
	folder := record.NewFolder(s, "keys/")
	if names, err := folder.Names(t.Context()); err != nil || len(names) != 0 {
		t.Errorf("got names %v, error %v, want none", names, err)
	}
	if err := folder.Store(t.Context(), "a.json", []byte("a")); err != nil {
		t.Fatal(err)
	}
	s.Files["keysake/b.json"] = nil
	if names, err := folder.Names(t.Context()); err != nil || !maps.Equal(names, map[string]bool{"a.json": true}) {
		t.Errorf("got names %v, error %v, want a.json", names, err)
	}
	if content, err := folder.Load(t.Context(), "a.json"); err != nil || string(content) != "a" {
		t.Errorf("got content %q, error %v, want a", content, err)
	}
	if err := folder.Delete(t.Context(), "a.json"); err != nil || !slices.Equal(s.Keys(), []string{"keysake/b.json"}) {
		t.Errorf("got keys %v, error %v, want a.json deleted", s.Keys(), err)
	}
	if _, err := folder.Load(t.Context(), "a.json"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got error %v, want fs.ErrNotExist", err)
	}
	s.Err = recordtest.ErrAway
	if _, err := folder.Names(t.Context()); !errors.Is(err, recordtest.ErrAway) {
		t.Errorf("got error %v, want ErrAway", err)
	}
}

// TestFolderNamesTornListing checks that a listing is repeated if it fails
// because a file was deleted meanwhile.
func TestFolderNamesTornListing(t *testing.T) {
	s := recordtest.NewStorage(t)
	s.Files["keys/a.json"] = nil
	s.OnList = func(context.Context) {
		s.Set(func() { s.Unlisted = s.Lists == 1 })
	}
	if names, err := record.NewFolder(s, "keys").Names(t.Context()); err != nil || !names["a.json"] {
		t.Errorf("got names %v, error %v, want a.json", names, err)
	}
}

func TestIsText(t *testing.T) {
	for text, want := range map[string]bool{
		"": true, "abc": true, "Ünal": true, "abcdefg": false, "a\n": false, "a\x00": false, "\xff": false, "\u0085": false,
	} {
		if got := record.IsText(text, 6); got != want {
			t.Errorf("%q: got %t, want %t", text, got, want)
		}
	}
}

func TestDetach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		parent, cancel := context.WithCancel(t.Context())
		cancel()
		start := time.Now()
		ctx, cancel := record.Detach(parent)
		defer cancel()
		<-ctx.Done()
		if got := time.Since(start); got != record.Timeout {
			t.Errorf("got a context that ends after %s, want %s", got, record.Timeout)
		}
	})
}
