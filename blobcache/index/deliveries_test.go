package index

import (
	"bytes"
	"errors"
	"io/fs"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

const (
	hubScope   = "acme/_/hub@1/team/app"
	otherScope = "other/_/hub@1/team/copy"
	evilScope  = "acme/_/evil@2/x/y"
)

// fixture is an index over a store with some content.
type fixture struct {
	t     *testing.T
	store *store.FileStore
	dir   string
	index *Index
}

func newStore(t *testing.T) *store.FileStore {
	t.Helper()
	s, err := store.OpenFileStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newFixture(t *testing.T) *fixture {
	dir := t.TempDir()
	s, err := store.OpenFileStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	return &fixture{t, s, dir, New(s)}
}

// layer stores content of that size, the same for the same name, and returns its digest.
func (e *fixture) layer(name string, size int) digest.Digest {
	e.t.Helper()
	content := bytes.Repeat([]byte(name+" "), size)[:size]
	d := digest.FromBytes(content)
	spool, err := e.store.Spool(e.t.Context())
	if err == nil {
		defer spool.Close()
		_, err = spool.Write(content)
	}
	if err == nil {
		err = e.store.Commit(e.t.Context(), d, spool)
	}
	if err != nil {
		e.t.Fatal(err)
	}
	return d
}

// linked reports whether a scope is linked to content, in memory and on disk.
func (e *fixture) linked(scope string, d digest.Digest) bool {
	e.t.Helper()
	_, err := e.index.Link(e.t.Context(), scope, d)
	_, disk := New(e.store).Link(e.t.Context(), scope, d)
	if (err == nil) != (disk == nil) {
		e.t.Errorf("%s to %s: got %v in memory and %v on disk, want the same", scope, d, err, disk)
	}
	return err == nil
}

// TestIndexDelivery checks that a delivery is known for all repositories and owners of its
// source, and for no other source, also after a restart.
func TestIndexDelivery(t *testing.T) {
	e := newFixture(t)
	d := e.layer("a", 10_000)
	if _, err := e.index.Delivery(t.Context(), hubScope, d); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before: %v, want %v", err, fs.ErrNotExist)
	}
	if err := e.index.AddDelivery(t.Context(), hubScope, d, Link{Size: 10_000}); err != nil {
		t.Fatal(err)
	}
	for _, x := range []*Index{e.index, New(e.store)} {
		if got, err := x.Delivery(t.Context(), otherScope, d); err != nil || got.Size != 10_000 {
			t.Errorf("another repository: %+v, %v", got, err)
		}
		if _, err := x.Link(t.Context(), otherScope, d); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("another repository is linked: %v", err)
		}
		if link, err := x.Link(t.Context(), hubScope, d); err != nil || link.Size != 10_000 {
			t.Errorf("the repository itself: %+v, %v", link, err)
		}
		for _, scope := range []string{evilScope, "acme/_/hub@2/team/app"} {
			if _, err := x.Delivery(t.Context(), scope, d); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v, want %v", scope, err, fs.ErrNotExist)
			}
		}
	}
}

// TestIndexForgetsDelivery checks that Forget removes the deliveries of content that is gone,
// and keeps those that were saved after the given time.
func TestIndexForgetsDelivery(t *testing.T) {
	e := newFixture(t)
	stays, gone := e.layer("stays", 10_000), digest.FromString("gone")
	for _, d := range []digest.Digest{stays, gone} {
		if err := e.index.AddDelivery(t.Context(), hubScope, d, Link{Size: 10_000}); err != nil {
			t.Fatal(err)
		}
	}
	known := func(d digest.Digest) bool {
		_, memory := e.index.Delivery(t.Context(), hubScope, d)
		_, disk := New(e.store).Delivery(t.Context(), hubScope, d)
		if (memory == nil) != (disk == nil) {
			t.Errorf("in memory: %v, on disk: %v", memory, disk)
		}
		return memory == nil
	}
	began := time.Now()
	for after, want := range map[time.Duration]bool{time.Hour: true, 25 * time.Hour: false} {
		if !want || known(gone) {
			if err := e.index.Forget(t.Context(), began.Add(after-24*time.Hour), func(d digest.Digest) bool { return d == gone }); err != nil {
				t.Fatal(err)
			}
		}
	}
	if known(gone) || !known(stays) {
		t.Errorf("the delivery of content that is gone is known: %v, that of stored content: %v; want false, true", known(gone), known(stays))
	}
}

// TestIndexLinkKeepsMediaType checks that the link of a manifest keeps its media type when the
// manifest is fetched as a blob later.
func TestIndexLinkKeepsMediaType(t *testing.T) {
	e := newFixture(t)
	d := e.layer("a", 100)
	manifest := Link{MediaType: "application/vnd.oci.image.manifest.v1+json", Size: 100}
	for _, link := range []Link{{Size: 100}, manifest, {Size: 100}} {
		if err := e.index.AddDelivery(t.Context(), hubScope, d, link); err != nil {
			t.Fatal(err)
		}
	}
	for _, x := range []*Index{e.index, New(e.store)} {
		if got, err := x.Link(t.Context(), hubScope, d); err != nil || got != manifest {
			t.Errorf("got %+v, %v; want %+v", got, err, manifest)
		}
	}
}
