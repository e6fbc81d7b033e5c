package index

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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

// layer stores content of so many bytes that is the same for a name.
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

// TestDelivery: what a source has delivered is known for all of its repositories
// and owners, and for no other source, also after a restart.
func TestDelivery(t *testing.T) {
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

// TestDeliveryIsForgotten a day after its content has gone.
func TestDeliveryIsForgotten(t *testing.T) {
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
		t.Errorf("what has gone is known: %v, what is stored: %v; want false, true", known(gone), known(stays))
	}
}

// former saves a link as the former version did.
func (e *fixture) former(scope string, d digest.Digest, link Link) string {
	e.t.Helper()
	key := linkKey(scope, d)
	data, err := json.Marshal(link)
	if err == nil {
		err = e.store.Save(e.t.Context(), key, data)
	}
	if err == nil {
		err = e.store.Mark(e.t.Context(), key, time.Now().Add(-48*time.Hour))
	}
	if err != nil {
		e.t.Fatal(err)
	}
	return key
}

// TestAdopt: of the links of the former version those of a trusted source are kept,
// if their repository is of that source alone and nothing contradicts them.
func TestAdopt(t *testing.T) {
	e := newFixture(t)
	d, cut, gone := e.layer("a", 10_000), e.layer("cut", 10_000), digest.FromString("gone")
	hex := cut.Encoded()
	if err := os.Truncate(filepath.Join(e.dir, "blobs", "sha256", hex[:2], hex), 5000); err != nil {
		t.Fatal(err)
	}
	type row struct {
		scope string
		d     digest.Digest
		link  Link
		kept  bool
	}
	rows := []row{
		{hubScope, d, Link{Size: 10_000}, true},
		{otherScope, d, Link{Size: -1}, true},
		{"third/_/hub@1/team/lie", d, Link{Size: 777}, false},
		{"third/_/hub@1/team/cut", cut, Link{Size: -1}, false},
		{"third/_/hub@1/team/gone", gone, Link{Size: 4}, false},
		{"acme/_/hub@1/team/moved", d, Link{Size: 10_000}, false},
		{"other/_/hub@2/team/moved", d, Link{Size: 10_000}, false},
		{"other/_/hub@2/team/untrusted", d, Link{Size: 10_000}, false},
		{evilScope, d, Link{Size: 10_000}, false},
	}
	for _, r := range rows {
		e.former(r.scope, r.d, r.link)
		if _, err := e.index.Link(t.Context(), r.scope, r.d); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v before the links were looked at, want %v", r.scope, err, fs.ErrNotExist)
		}
	}
	proved := "new/_/evil@2/x/z"
	if err := e.index.AddDelivery(t.Context(), proved, d, Link{Size: 10_000}); err != nil {
		t.Fatal(err)
	}
	got, err := e.index.Adopt(t.Context(), e.store, []string{"hub@1"})
	if want := (Adopted{Kept: 2, Dropped: 7}); err != nil || got != want {
		t.Errorf("adopted %+v, %v; want %+v", got, err, want)
	}
	for _, r := range append(rows, row{proved, d, Link{}, true}) {
		if e.linked(r.scope, r.d) != r.kept {
			t.Errorf("%s is kept: %v, want %v", r.scope, !r.kept, r.kept)
		}
		if link, err := e.index.Link(t.Context(), r.scope, r.d); err == nil && link.Size != 10_000 {
			t.Errorf("%s: a size of %d, want 10000", r.scope, link.Size)
		}
	}
	if _, err := e.index.Delivery(t.Context(), hubScope, d); err != nil {
		t.Errorf("what was kept is not delivered: %v", err)
	}
	if err := e.store.List(t.Context(), linksFolder+"/other", func(r store.Record) error {
		if time.Since(r.Used) < time.Hour {
			return fmt.Errorf("%s counts as used", r.Key)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	// It is done once: what an old process writes later is proved by a download.
	e.former(evilScope, d, Link{Size: 10_000})
	if got, err := e.index.Adopt(t.Context(), e.store, []string{"hub@1", "evil@2"}); err != nil || got != (Adopted{}) {
		t.Errorf("a second time: %+v, %v, want nothing", got, err)
	}
	if e.linked(evilScope, d) {
		t.Error("a link of the former version was believed later")
	}
}

// TestAdoptGoesOn: what is interrupted begins anew; links that are kept in any case
// are believed meanwhile.
func TestAdoptGoesOn(t *testing.T) {
	e := newFixture(t)
	var all []digest.Digest
	for i := range 3 * adoptStride {
		d := e.layer(fmt.Sprint(i), 100)
		e.former(hubScope, d, Link{Size: 100})
		all = append(all, d)
	}
	last := all[len(all)-1]
	ctx, cancel := context.WithCancel(t.Context())
	e.index.records = &interrupted{e.store, func(n int) {
		if n == 10 {
			if _, err := e.index.Link(t.Context(), hubScope, last); err != nil {
				t.Errorf("a link that will be kept: %v", err)
			}
			cancel()
		}
	}, 0}
	if _, err := e.index.Adopt(ctx, e.store, []string{"hub@1"}); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v, want %v", err, context.Canceled)
	}
	e.index = New(e.store)
	got, err := e.index.Adopt(t.Context(), e.store, []string{"hub@1"})
	if err != nil || got.Kept == 0 || got.Kept > len(all)-10 || got.Dropped != 0 {
		t.Errorf("goes on: %+v, %v; want at most %d kept", got, err, len(all)-10)
	}
	for _, d := range all {
		if !e.linked(hubScope, d) {
			t.Fatal("a link is lost")
		}
	}
}

// interrupted counts what is marked.
type interrupted struct {
	store.Records
	marked func(n int)
	n      int
}

func (i *interrupted) Mark(ctx context.Context, key string, used time.Time) error {
	i.n++
	i.marked(i.n)
	return i.Records.Mark(ctx, key, used)
}

// TestAdoptGoesOnMixed: an adoption that is resumed knows that the links of a
// repository were of several sources, although those of the other source have gone.
func TestAdoptGoesOnMixed(t *testing.T) {
	e := newFixture(t)
	d := e.layer("a", 100)
	scopes := []string{"acme/_/hub@1/team/moved", "other/_/hub@2/team/moved"}
	for _, scope := range scopes {
		e.former(scope, d, Link{Size: 100})
	}
	ctx, cancel := context.WithCancel(t.Context())
	e.index.records = &interrupting{e.store, cancel}
	trusted := []string{"hub@1", "hub@2"}
	if got, err := e.index.Adopt(ctx, e.store, trusted); !errors.Is(err, context.Canceled) || got.Dropped != 1 {
		t.Fatalf("interrupted: %+v, %v; want one dropped and %v", got, err, context.Canceled)
	}
	e.index = New(e.store)
	if got, err := e.index.Adopt(t.Context(), e.store, trusted); err != nil || got != (Adopted{Dropped: 1}) {
		t.Errorf("goes on: %+v, %v; want one dropped", got, err)
	}
	for _, scope := range scopes {
		if e.linked(scope, d) {
			t.Errorf("%s: a link of a repository of several sources is kept", scope)
		}
	}
	if _, err := e.store.Load(t.Context(), mixedKey); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was noted is left: %v", err)
	}
}

// interrupting ends what is being done with the first record that is deleted.
type interrupting struct {
	store.Records
	end func()
}

func (i *interrupting) Delete(ctx context.Context, key string) error {
	defer i.end()
	return i.Records.Delete(ctx, key)
}

// TestBlobLinkKeepsMediaType: a manifest that is fetched as a blob too stays one.
func TestBlobLinkKeepsMediaType(t *testing.T) {
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
