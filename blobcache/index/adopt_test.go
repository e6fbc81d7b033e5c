package index

import (
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

// TestIndexAdopt: of the links of the former version those of a trusted source are kept,
// if their repository is of that source alone and nothing contradicts them.
func TestIndexAdopt(t *testing.T) {
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

// TestIndexAdoptResumes: what is interrupted begins anew; links that are kept in any case
// are believed meanwhile.
func TestIndexAdoptResumes(t *testing.T) {
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

// TestIndexAdoptResumesMixed: an adoption that is resumed knows that the links of a
// repository were of several sources, although those of the other source have gone.
func TestIndexAdoptResumesMixed(t *testing.T) {
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
