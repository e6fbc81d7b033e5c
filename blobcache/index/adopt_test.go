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

// former saves a link in the format of the version before deliveries were recorded.
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

// TestIndexAdopt checks which links of the former version are kept: those of a trusted source
// whose repository has no links of other sources, and whose content is stored with their size.
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
			t.Errorf("%s: got %v before Adopt, want %v", r.scope, err, fs.ErrNotExist)
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
		t.Errorf("the delivery of a kept link: got %v, want no error", err)
	}
	if err := e.store.List(t.Context(), linksFolder+"/other", func(r store.Record) error {
		if time.Since(r.Used) < time.Hour {
			return fmt.Errorf("%s counts as used", r.Key)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	// Adopt runs once: links that a process of the former version saves later do not count.
	e.former(evilScope, d, Link{Size: 10_000})
	if got, err := e.index.Adopt(t.Context(), e.store, []string{"hub@1", "evil@2"}); err != nil || got != (Adopted{}) {
		t.Errorf("a second Adopt: got %+v and the error %v, want nothing adopted", got, err)
	}
	if e.linked(evilScope, d) {
		t.Error("a link of the former version that was saved after Adopt counts")
	}
}

// TestIndexAdoptResumes checks that Adopt, when it was interrupted, continues at the next call
// and loses no link, and that links that will be kept count while it runs.
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
				t.Errorf("a link that will be kept: got %v, want no error", err)
			}
			cancel()
		}
	}, 0}
	if _, err := e.index.Adopt(ctx, e.store, []string{"hub@1"}); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: got %v, want %v", err, context.Canceled)
	}
	e.index = New(e.store)
	got, err := e.index.Adopt(t.Context(), e.store, []string{"hub@1"})
	if err != nil || got.Kept == 0 || got.Kept > len(all)-10 || got.Dropped != 0 {
		t.Errorf("resumed: got %+v and the error %v, want at most %d kept", got, err, len(all)-10)
	}
	for _, d := range all {
		if !e.linked(hubScope, d) {
			t.Fatal("a link is lost")
		}
	}
}

// interrupted is a Records that counts the calls of Mark and passes their number to marked.
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

// TestIndexAdoptResumesMixed checks that a resumed Adopt keeps no link of a repository that had
// links of several sources, although the interrupted one has removed those of the other source.
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
		t.Errorf("resumed: got %+v and the error %v, want one dropped", got, err)
	}
	for _, scope := range scopes {
		if e.linked(scope, d) {
			t.Errorf("%s: a link of a repository of several sources is kept", scope)
		}
	}
	if _, err := e.store.Load(t.Context(), mixedKey); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the list of repositories of several sources: got %v, want it removed", err)
	}
}

// interrupting is a Records that calls end after each Delete.
type interrupting struct {
	store.Records
	end func()
}

func (i *interrupting) Delete(ctx context.Context, key string) error {
	defer i.end()
	return i.Records.Delete(ctx, key)
}
