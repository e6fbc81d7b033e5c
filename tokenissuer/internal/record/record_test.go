package record_test

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/singleflight"

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

// TestDo checks that concurrent calls share one run, that a call returns when
// its context ends, even that of the first caller, and that the run continues.
func TestDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var group singleflight.Group
		runs, release := 0, make(chan struct{})
		do := func(ctx context.Context) (int, error) {
			return record.Do(ctx, &group, "key", func(ctx context.Context) (int, error) {
				runs++
				<-release
				return 7, ctx.Err()
			})
		}
		first, leave := context.WithCancelCause(t.Context())
		results := make(chan error)
		go func() {
			_, err := do(first)
			results <- err
		}()
		synctest.Wait()
		go func() {
			got, err := do(t.Context())
			if got != 7 {
				t.Errorf("got %d, want 7", got)
			}
			results <- err
		}()
		synctest.Wait()
		left := errors.New("the client left")
		leave(left)
		if err := <-results; !errors.Is(err, left) {
			t.Errorf("got error %v, want that the client left", err)
		}
		close(release)
		if err := <-results; err != nil {
			t.Errorf("got error %v, want none", err)
		}
		if runs != 1 {
			t.Errorf("got %d runs, want 1", runs)
		}
	})
}

func TestDoPanics(t *testing.T) {
	var group singleflight.Group
	defer func() {
		if err, ok := recover().(error); !ok || !strings.Contains(err.Error(), "storage") || !strings.Contains(err.Error(), "record_test.go") {
			t.Errorf("got panic %v, want that of the run with its stack", err)
		}
		if got, err := record.Do(t.Context(), &group, "key", func(context.Context) (int, error) { return 7, nil }); got != 7 || err != nil {
			t.Errorf("got %d, error %v after a panic, want 7", got, err)
		}
	}()
	_, err := record.Do(t.Context(), &group, "key", func(context.Context) (int, error) { panic("storage") })
	t.Errorf("got error %v, want a panic", err)
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
