package index

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// TestIndexEachRef: names with their scopes, of an owner and its parts alone, until
// the visitor has seen enough.
func TestIndexEachRef(t *testing.T) {
	store := newStore(t)
	x := New(store)
	d := digest.FromString("x")
	for _, scope := range []string{"acme/_/hub/a", "acme/sub/_/hub/b", "acmeplus/_/hub/c"} {
		if err := x.SetRef(t.Context(), scope, "1.0", Ref{Digest: d}); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Save(t.Context(), "refs/acme/_/hub/a/_/broken", []byte("{")); err != nil {
		t.Fatal(err)
	}
	var seen []string
	visit := func(n Named) error {
		seen = append(seen, n.Scope+":"+n.Name)
		if n.Digest != d || n.Since.IsZero() {
			t.Errorf("%+v", n)
		}
		return nil
	}
	if err := x.EachRef(t.Context(), "acme", visit); err != nil || !slices.Equal(seen, []string{"acme/_/hub/a:1.0", "acme/sub/_/hub/b:1.0"}) {
		t.Errorf("%v, %v", seen, err)
	}
	for _, stop := range []error{fs.SkipAll, errors.New("enough")} {
		err := x.EachRef(t.Context(), "acme", func(Named) error { return stop })
		if stop == fs.SkipAll && err != nil || stop != fs.SkipAll && err != stop {
			t.Errorf("%v stops with %v", stop, err)
		}
	}
}

// watchedRecords calls back when a record has been read.
type watchedRecords struct {
	store.Records
	loaded func()
}

func (l *watchedRecords) Load(ctx context.Context, key string) ([]byte, error) {
	value, err := l.Records.Load(ctx, key)
	if loaded := l.loaded; loaded != nil {
		l.loaded = nil
		loaded()
	}
	return value, err
}

// TestIndexLinkDroppedDuringRead must not live on in memory.
func TestIndexLinkDroppedDuringRead(t *testing.T) {
	store := newStore(t)
	d := digest.FromString("layer")
	if err := New(store).AddLink(t.Context(), "acme/_/hub/a", d, Link{Size: 5}); err != nil {
		t.Fatal(err)
	}
	var x *Index
	x = New(&watchedRecords{store, func() {
		if n, err := x.Purge(t.Context(), "acme", func(digest.Digest) {}); n != 1 || err != nil {
			t.Errorf("purge: got %d links, %v; want 1", n, err)
		}
	}})
	if _, err := x.Link(t.Context(), "acme/_/hub/a", d); err != nil {
		t.Fatal(err)
	}
	if _, err := x.Link(t.Context(), "acme/_/hub/a", d); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after the purge: got %v, want %v", err, fs.ErrNotExist)
	}
}
