package storetest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

func testList(t *testing.T, l store.Records) {
	if got := listed(t, l, "links"); len(got) != 0 {
		t.Errorf("List of an empty store: got %v, want nothing", got)
	}
	keys := []string{"links/a/x", "links/a/b/x", "links/a/b/y", "links/a-b/x", "links/a.b/x", "links/ab/x", "links/b", "refs/a/x"}
	for _, key := range keys {
		save(t, l, key, "1")
	}
	for prefix, want := range map[string]int{"links": 7, "links/a": 3, "links/a/b": 2, "links/c": 0, "refs": 1} {
		got := listed(t, l, prefix)
		if len(got) != want {
			t.Errorf("%s: %d records instead of %d", prefix, len(got), want)
		}
		for key, used := range got {
			if !strings.HasPrefix(key, prefix+"/") || time.Since(used).Abs() > time.Hour {
				t.Errorf("%s: %s, used %v", prefix, key, used)
			}
		}
	}
	// Records that share their first components are visited one after the other.
	last, seen := "", make(map[string]bool)
	err := l.List(t.Context(), "links", func(r store.Record) error {
		owner := strings.Split(r.Key, "/")[1]
		if owner != last && seen[owner] {
			t.Errorf("%s comes twice", owner)
		}
		last, seen[owner] = owner, true
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func testListStops(t *testing.T, l store.Records) {
	save(t, l, "links/a/x", "1")
	save(t, l, "links/b/x", "1")
	enough, visits := errors.New("enough"), 0
	err := l.List(t.Context(), "links", func(store.Record) error {
		visits++
		return enough
	})
	if !errors.Is(err, enough) || visits != 1 {
		t.Errorf("got %d visits and the error %v, want 1 and %v", visits, err, enough)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := l.List(ctx, "links", func(store.Record) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("List with a cancelled context: got %v, want %v", err, context.Canceled)
	}
}

func testMark(t *testing.T, l store.Records) {
	used := time.Now().Add(-48 * time.Hour).Truncate(time.Second)
	if err := l.Mark(t.Context(), "links/a/x", used); err != nil {
		t.Errorf("Mark of an absent record: got %v, want no error", err)
	}
	if got := listed(t, l, "links"); len(got) != 0 {
		t.Errorf("after Mark of an absent record: got the records %v, want none", got)
	}
	save(t, l, "links/a/x", "1")
	if err := l.Mark(t.Context(), "links/a/x", used); err != nil {
		t.Fatal(err)
	}
	if got := listed(t, l, "links")["links/a/x"]; !got.Equal(used) {
		t.Errorf("used %v instead of %v", got, used)
	}
	loads(t, l, "links/a/x", "1")
	save(t, l, "links/a/x", "2")
	if got := listed(t, l, "links")["links/a/x"]; time.Since(got).Abs() > time.Hour {
		t.Errorf("saved now, and used %v", got)
	}
}

func testDelete(t *testing.T, l store.Records) {
	if err := l.Delete(t.Context(), "links/a/x"); err != nil {
		t.Errorf("Delete of an absent record: got %v, want no error", err)
	}
	save(t, l, "links/a/x", "1")
	save(t, l, "links/a/y", "2")
	if err := l.Delete(t.Context(), "links/a/x"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Load(t.Context(), "links/a/x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("load: %v", err)
	}
	loads(t, l, "links/a/y", "2")
	save(t, l, "links/a/x", "3")
	loads(t, l, "links/a/x", "3")
}

func testDeleteInList(t *testing.T, l store.Records) {
	const n = 60
	for i := range n {
		save(t, l, fmt.Sprintf("links/a/%d/%d", i%3, i), "1")
	}
	visits := 0
	err := l.List(t.Context(), "links", func(r store.Record) error {
		visits++
		return l.Delete(t.Context(), r.Key)
	})
	if err != nil || visits != n || len(listed(t, l, "links")) != 0 {
		t.Errorf("%d of %d visits, %v; left are %v", visits, n, err, listed(t, l, "links"))
	}
}

// testDeleteAndSave saves, loads and deletes records whose keys differ in the last component
// only, at the same time.
func testDeleteAndSave(t *testing.T, l store.Records) {
	var all sync.WaitGroup
	for i := range 4 {
		key := fmt.Sprintf("links/a/b/%d", i)
		all.Go(func() {
			for range 50 {
				if err := l.Save(context.Background(), key, []byte("1")); err != nil {
					t.Errorf("save: %v", err)
				}
				if _, err := l.Load(context.Background(), key); err != nil {
					t.Errorf("load: %v", err)
				}
				if err := l.Delete(context.Background(), key); err != nil {
					t.Errorf("delete: %v", err)
				}
			}
		})
	}
	all.Wait()
}

func testBadKeysChanged(t *testing.T, l store.Records) {
	for _, key := range []string{"", ".", "..", "/links/a", "links/../a", "../links"} {
		if l.Mark(t.Context(), key, time.Now()) == nil {
			t.Errorf("Mark of the invalid key %q: got no error, want one", key)
		}
		if l.Delete(t.Context(), key) == nil {
			t.Errorf("Delete of the invalid key %q: got no error, want one", key)
		}
		if l.List(t.Context(), key, func(store.Record) error { return nil }) == nil {
			t.Errorf("List of the invalid key %q: got no error, want one", key)
		}
	}
}

func listed(t *testing.T, l store.Records, prefix string) map[string]time.Time {
	t.Helper()
	records := make(map[string]time.Time)
	err := l.List(t.Context(), prefix, func(r store.Record) error {
		if _, twice := records[r.Key]; twice {
			t.Errorf("%s comes twice", r.Key)
		}
		records[r.Key] = r.Used
		return nil
	})
	if err != nil {
		t.Fatalf("list %s: %v", prefix, err)
	}
	return records
}
