package index_test

import (
	"context"
	"errors"
	"io/fs"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

func openIndexed(t *testing.T, dir string) *store.FileStore {
	t.Helper()
	s, err := store.OpenFileStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// countedRecords is a Records that counts the calls of Save, and fails if fail is set.
type countedRecords struct {
	store.Records
	saves atomic.Int32
	fail  error
}

func (r *countedRecords) Load(ctx context.Context, key string) ([]byte, error) {
	if r.fail != nil {
		return nil, r.fail
	}
	return r.Records.Load(ctx, key)
}

func (r *countedRecords) Save(ctx context.Context, key string, value []byte) error {
	r.saves.Add(1)
	if r.fail != nil {
		return r.fail
	}
	return r.Records.Save(ctx, key, value)
}

var (
	aDigest = digest.FromString("a")
	aLink   = index.Link{MediaType: "application/json", Size: 123}
)

func TestIndexLinks(t *testing.T) {
	records := &countedRecords{Records: openIndexed(t, t.TempDir())}
	x := index.New(records)
	if _, err := x.Link(t.Context(), "acme/hub/alpine", aDigest); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("never linked: %v", err)
	}
	for range 3 {
		if err := x.AddLink(t.Context(), "acme/hub/alpine", aDigest, aLink); err != nil {
			t.Fatal(err)
		}
	}
	if n := records.saves.Load(); n != 1 {
		t.Errorf("saved %d times", n)
	}
	for name, x := range map[string]*index.Index{"same": x, "after a restart": index.New(records)} {
		if link, err := x.Link(t.Context(), "acme/hub/alpine", aDigest); err != nil || link != aLink {
			t.Errorf("%s: %+v, %v", name, link, err)
		}
		for _, scope := range []string{"acme/hub/alpine/x", "acme/hub", "other/hub/alpine"} {
			if _, err := x.Link(t.Context(), scope, aDigest); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %s has the link too: %v", name, scope, err)
			}
		}
		if _, err := x.Link(t.Context(), "acme/hub/alpine", digest.FromString("b")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: another digest: %v", name, err)
		}
	}
}

func TestIndexRefs(t *testing.T) {
	records := &countedRecords{Records: openIndexed(t, t.TempDir())}
	x := index.New(records)
	if _, err := x.Ref(t.Context(), "acme/hub/alpine", "latest"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("never set: %v", err)
	}
	ref := index.Ref{Digest: aDigest, MediaType: "application/json", Size: 123, Checked: time.Now()}
	set := func(want int32) {
		t.Helper()
		if err := x.SetRef(t.Context(), "acme/hub/alpine", "latest", ref); err != nil {
			t.Fatal(err)
		}
		if got, err := x.Ref(t.Context(), "acme/hub/alpine", "latest"); err != nil || !sameRef(got, ref) {
			t.Errorf("%+v, %v", got, err)
		}
		if n := records.saves.Load(); n != want {
			t.Errorf("saved %d times instead of %d", n, want)
		}
	}
	set(1)
	ref.Checked = ref.Checked.Add(time.Minute)
	set(1) // a tag that is checked often costs no write
	ref.Digest = digest.FromString("b")
	set(2)

	set(2)
	_, first := onlyRef(t, x)
	ref.Checked, ref.NotBefore = ref.Checked.Add(10*time.Minute), time.Now()
	set(3) // so that a restart does not make it much older than it is

	x = index.New(records)
	got, err := x.Ref(t.Context(), "acme/hub/alpine", "latest")
	if err != nil || got.Digest != ref.Digest || !got.Checked.Equal(ref.Checked) || !got.NotBefore.IsZero() {
		t.Errorf("after a restart: %+v, %v", got, err)
	}
	got.SetLinked()
	if got, _ = x.Ref(t.Context(), "acme/hub/alpine", "latest"); !got.Linked() {
		t.Error("got a ref that has to look up its link at each use after a restart, want it remembered")
	}
	if _, ref := onlyRef(t, x); !ref.Since.Equal(first.Since) || first.Since.IsZero() {
		t.Errorf("got the digest since %v after it was confirmed, want %v", ref.Since, first.Since)
	}
}

// TestIndexRefsOfEarlierVersion checks that a ref of a version that saved a ref only when it
// changed counts as used when it was saved, and as never confirmed.
func TestIndexRefsOfEarlierVersion(t *testing.T) {
	records := openIndexed(t, t.TempDir())
	key, saved := "refs/acme/hub/alpine/_/latest", time.Now().Add(-24*time.Hour).Round(time.Second)
	for _, err := range []error{
		records.Save(t.Context(), key, []byte(`{"digest":"`+aDigest.String()+`","mediaType":"application/json","size":123}`)),
		records.Mark(t.Context(), key, saved),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if name, ref := onlyRef(t, index.New(records)); !name.Used.Equal(saved) || !ref.Since.IsZero() || !ref.Checked.IsZero() {
		t.Errorf("got %+v, used at %v, want it recorded at %v", ref, name.Used, saved)
	}
}

// onlyRef returns the only ref that is stored.
func onlyRef(t *testing.T, x *index.Index) (name index.RefName, ref index.Ref) {
	t.Helper()
	err := x.EachRef(t.Context(), "acme", func(n index.RefName) (err error) {
		name = n
		ref, err = x.Ref(t.Context(), n.Scope, n.Name)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return name, ref
}

// sameRef reports whether two refs are equal in what a caller of SetRef sets.
func sameRef(a, b index.Ref) bool {
	return a.Digest == b.Digest && a.MediaType == b.MediaType && a.Size == b.Size && a.Checked.Equal(b.Checked) && a.NotBefore.Equal(b.NotBefore)
}

func TestIndexDamagedRecords(t *testing.T) {
	records := openIndexed(t, t.TempDir())
	for _, value := range []string{"", "{", "\x00\x00", `{"digest":"sha256:ab"}`, "{}", `{"digest":7}`} {
		if err := records.Save(t.Context(), "refs/acme/_/latest", []byte(value)); err != nil {
			t.Fatal(err)
		}
		x := index.New(records)
		if ref, err := x.Ref(t.Context(), "acme", "latest"); !errors.Is(err, fs.ErrNotExist) || ref.Digest != "" {
			t.Errorf("%q: %+v, %v", value, ref, err)
		}
		if err := x.SetRef(t.Context(), "acme", "latest", index.Ref{Digest: aDigest}); err != nil {
			t.Errorf("%q does not heal: %v", value, err)
		}
		if ref, err := index.New(records).Ref(t.Context(), "acme", "latest"); err != nil || ref.Digest != aDigest {
			t.Errorf("%q does not heal: %+v, %v", value, ref, err)
		}
	}
}

// TestIndexWhenRecordsFail checks that links and refs that cannot be saved count until the
// process ends.
func TestIndexWhenRecordsFail(t *testing.T) {
	records := &countedRecords{Records: openIndexed(t, t.TempDir()), fail: syscall.EIO}
	x := index.New(records)
	if _, err := x.Link(t.Context(), "acme", aDigest); !errors.Is(err, syscall.EIO) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("link: %v", err)
	}
	if err := x.AddLink(t.Context(), "acme", aDigest, aLink); !errors.Is(err, syscall.EIO) {
		t.Errorf("add: %v", err)
	}
	if link, err := x.Link(t.Context(), "acme", aDigest); err != nil || link != aLink {
		t.Errorf("%+v, %v", link, err)
	}
	ref := index.Ref{Digest: aDigest}
	if err := x.SetRef(t.Context(), "acme", "latest", ref); !errors.Is(err, syscall.EIO) {
		t.Errorf("set: %v", err)
	}
	if got, err := x.Ref(t.Context(), "acme", "latest"); err != nil || !sameRef(got, ref) {
		t.Errorf("%+v, %v", got, err)
	}
}

func TestIndexRejectsInvalidScopes(t *testing.T) {
	x := index.New(openIndexed(t, t.TempDir()))
	for _, scope := range []string{"", "a//b", "../a", "a/../../..", "/a", "a/"} {
		if err := x.AddLink(t.Context(), scope, aDigest, aLink); err == nil {
			t.Errorf("linked %q", scope)
		}
		if err := x.SetRef(t.Context(), scope, "latest", index.Ref{Digest: aDigest}); err == nil {
			t.Errorf("set a ref of %q", scope)
		}
	}
}

func TestIndexConcurrently(t *testing.T) {
	x := index.New(openIndexed(t, t.TempDir()))
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for range 20 {
				err := errors.Join(
					x.AddLink(t.Context(), "acme", aDigest, aLink),
					x.SetRef(t.Context(), "acme", "latest", index.Ref{Digest: aDigest, Size: int64(i)}),
				)
				link, lerr := x.Link(t.Context(), "acme", aDigest)
				ref, rerr := x.Ref(t.Context(), "acme", "latest")
				if err := errors.Join(err, lerr, rerr); err != nil || link != aLink || ref.Digest != aDigest {
					t.Errorf("%+v, %+v, %v", link, ref, err)
				}
			}
		})
	}
	all.Wait()
}
