package index

import (
	"errors"
	"fmt"
	"io/fs"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// TestIndexNotePurge checks that what was recorded before a purge of another process does
// not count, in memory and on disk, that what is recorded later does, and that other scopes
// keep theirs.
func TestIndexNotePurge(t *testing.T) {
	x, d := New(newStore(t)), digest.FromString("layer")
	const scope, other = "acme/_/hub/a", "acme/_/hub/ab"
	add := func(scope string) {
		t.Helper()
		err := x.AddLink(t.Context(), scope, d, Link{Size: 5})
		if err = errors.Join(err, x.SetRef(t.Context(), scope, "1", Ref{Digest: d, Checked: time.Now()})); err != nil {
			t.Fatal(err)
		}
	}
	known := func(scope string) bool {
		t.Helper()
		_, err := x.Link(t.Context(), scope, d)
		_, err2 := x.Ref(t.Context(), scope, "1")
		if (err == nil) != (err2 == nil) || err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("got the errors %v for the link and %v for the ref", err, err2)
		}
		return err == nil
	}
	add(scope)
	add(other)
	for name, at := range map[string]time.Time{"none": {}, "of last month": time.Now().AddDate(0, -1, 0)} {
		if x.NotePurge(scope, at); !known(scope) {
			t.Errorf("a purge %s counts", name)
		}
	}
	at := time.Now()
	x.NotePurge(scope, at)
	if known(scope) || !known(other) || !x.PurgedAt(scope).Equal(at) || !x.PurgedAt(other).IsZero() {
		t.Errorf("known after the purge: %v, another scope: %v; it was at %v and %v", known(scope), known(other), x.PurgedAt(scope), x.PurgedAt(other))
	}
	add(scope)
	if x.NotePurge(scope, at); !known(scope) {
		t.Error("what was recorded after a purge does not count after the same purge")
	}
	if x.NotePurge(scope, time.Now().Add(time.Hour)); known(scope) || x.PurgedAt(scope).After(time.Now()) {
		t.Errorf("a purge by a clock that is ahead does not count, or was at %v", x.PurgedAt(scope))
	}
}

// TestIndexPurgesOverflow checks that what was recorded before a purge does not count when
// there have been more purges since than are kept in memory, and that old ones do no harm.
func TestIndexPurgesOverflow(t *testing.T) {
	x := New(newStore(t))
	began := time.Now().Add(-time.Hour)
	x.purges.note("acme", began)
	x.purges.note("old", time.Now().Add(-2*keepPurges))
	x.purges.last.Remove("old")
	if x.purges.void("other/_/hub/a", began.Add(-time.Minute)) {
		t.Fatal("what was not purged is void")
	}
	for i := range maxPurges {
		x.purges.note(fmt.Sprint("group", i), began.Add(time.Minute))
	}
	if x.purges.last.Contains("acme") || !x.purges.void("acme/_/hub/a", began.Add(-time.Minute)) || x.purges.void("acme/_/hub/a", began.Add(time.Minute)) {
		t.Error("a purge that does not fit the memory does not count, or what was recorded later is void")
	}
}
