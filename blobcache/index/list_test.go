package index

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// TestIndexEachRef checks that EachRef visits the refs of an owner, and of the owners below it
// alone, with their scopes, until visit returns an error.
func TestIndexEachRef(t *testing.T) {
	store := newStore(t)
	x := New(store)
	d := digest.FromString("x")
	for _, scope := range []string{"acme/_/hub/a", "acme/sub/_/hub/b", "acmeplus/_/hub/c"} {
		if err := x.SetRef(t.Context(), scope, "1.0", Ref{Digest: d}); err != nil {
			t.Fatal(err)
		}
	}
	var seen []string
	visit := func(n RefName) error {
		seen = append(seen, n.Scope+":"+n.Name)
		if n.Used.IsZero() {
			t.Errorf("got %+v, want a time", n)
		}
		return nil
	}
	if err := x.EachRef(t.Context(), "acme", visit); err != nil || !slices.Equal(seen, []string{"acme/_/hub/a:1.0", "acme/sub/_/hub/b:1.0"}) {
		t.Errorf("%v, %v", seen, err)
	}
	for _, stop := range []error{fs.SkipAll, errors.New("enough")} {
		err := x.EachRef(t.Context(), "acme", func(RefName) error { return stop })
		if stop == fs.SkipAll && err != nil || stop != fs.SkipAll && err != stop {
			t.Errorf("%v stops with %v", stop, err)
		}
	}
}

// TestIndexMarkRef checks that a ref keeps the time at which it got its digest, in
// memory and on disk, when it is saved again and when it is marked, and that the
// walk reports the mark.
func TestIndexMarkRef(t *testing.T) {
	records := newStore(t)
	x := New(records)
	const scope = "acme/_/hub/a"
	set := func(content string) Ref {
		t.Helper()
		if err := x.SetRef(t.Context(), scope, "1.0", Ref{Digest: digest.FromString(content)}); err != nil {
			t.Fatal(err)
		}
		ref, err := x.Ref(t.Context(), scope, "1.0")
		if err != nil {
			t.Fatal(err)
		}
		return ref
	}
	first := set("x")
	if age := time.Since(first.Since); age < 0 || age > time.Hour {
		t.Errorf("got a ref since %v, want since now", first.Since)
	}
	old := first
	old.Since = first.Since.Add(-24 * time.Hour)
	x.refs.Add(refKey(scope, "1.0"), old)
	if got := set("x").Since; !got.Equal(old.Since) {
		t.Errorf("got a ref since %v after it was saved again, want %v", got, old.Since)
	}
	used := time.Now().Add(-time.Hour).Truncate(time.Second)
	if err := x.MarkRef(t.Context(), scope, "1.0", used); err != nil {
		t.Fatal(err)
	}
	err := x.EachRef(t.Context(), "acme", func(n RefName) error {
		if !n.Used.Equal(used) {
			t.Errorf("got the use %v, want %v", n.Used, used)
		}
		return nil
	})
	if ref, err2 := New(records).Ref(t.Context(), scope, "1.0"); err != nil || err2 != nil || !ref.Since.Equal(first.Since) {
		t.Errorf("got a ref since %v from disk, errors %v, %v; want %v", ref.Since, err, err2, first.Since)
	}
	if got := set("y").Since; !got.After(old.Since) {
		t.Errorf("got a ref with another digest since %v, want since now", got)
	}
	if err := x.MarkRef(t.Context(), scope, "none", used); err != nil {
		t.Error(err)
	}
}

// watchedRecords is a Records that calls loaded after the next Load.
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

// TestIndexLinkDroppedDuringRead checks that a link that is purged while it is read from disk
// does not stay in memory.
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
	if _, err := x.Link(t.Context(), "acme/_/hub/a", d); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if _, err := x.Link(t.Context(), "acme/_/hub/a", d); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after the purge: got %v, want %v", err, fs.ErrNotExist)
	}
}
