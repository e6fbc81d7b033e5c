package blobcache

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// TestQuotasLimit checks that the limit of a scope is the smallest quota of its owner and the
// parents of its owner.
func TestQuotasLimit(t *testing.T) {
	q := NewQuotas(nil, nil, map[string]int64{"acme": 10, "acme/a": 20, "acme/b": 5})
	for scope, want := range map[string]int64{
		"acme/_/hub/x": 10, "acme/a/_/hub/x": 10, "acme/b/_/hub/x": 5, "acme/b/c/_/x": 5, "acme-x/_/x": 0, "other/_/acme": 0, "": 0,
	} {
		if got := q.Limit(scope); got != want {
			t.Errorf("limit of %q: got %d, want %d", scope, got, want)
		}
	}
}

// TestGetPassesOnLargerThanQuota checks that content larger than the limit of the request is
// passed on without being stored.
func TestGetPassesOnLargerThanQuota(t *testing.T) {
	g := newImageFixture(t, Limits{})
	content := []byte(strings.Repeat("x", 1001))
	d := digest.FromBytes(content)
	g.names[d] = "large"
	unsized := func(ctx context.Context, offset, length int64, etag string) (*fill.Body, error) {
		body, err := fetchOf(content)(ctx, offset, length, etag)
		body.Size = -1
		return body, err
	}
	for _, try := range []struct {
		limit int64
		fetch fill.Fetch
	}{{1000, fetchOf(content)}, {1000, unsized}, {1001, unsized}} {
		limit, stored := try.limit, make(chan int64, 1)
		r, origin, err := g.cache.Get(t.Context(), fill.Request{Digest: d, Size: -1, Limit: limit, Fetch: try.fetch, Stored: func(size int64) { stored <- size }})
		if err != nil || origin != fill.Started {
			t.Fatalf("got origin %v and the error %v, want origin %v and no error", origin, err, fill.Started)
		}
		if got, err := io.ReadAll(r); err != nil || len(got) != len(content) {
			t.Errorf("got %d bytes and the error %v, want %d bytes and no error", len(got), err, len(content))
		}
		_ = r.Close()
		g.cache.Flush(t.Context())
		if limit == 1000 {
			g.expect("")
		} else if size := <-stored; size != 1001 {
			t.Errorf("Stored hook: got %d bytes, want 1001", size)
		}
	}
	g.expect("large")
}

// TestQuotasForget checks that a round removes links and refs to content that is no longer
// stored once they are a day old, and no other links and refs.
func TestQuotasForget(t *testing.T) {
	e := newQuotaFixture(t, nil)
	old, gone := e.pull("acme/_/hub/one", "m1", "a1"), digest.FromString("gone")
	fresh, lost := digest.FromString("fresh"), digest.FromString("lost")
	for _, d := range []digest.Digest{gone, fresh, lost} {
		if err := e.index.AddLink(t.Context(), "acme/_/hub/one", d, index.Link{Size: 1}); err != nil {
			t.Fatal(err)
		}
	}
	for name, d := range map[string]digest.Digest{"old": old, "gone": gone, "fresh": fresh} {
		if err := e.index.SetRef(t.Context(), "acme/_/hub/one", name, index.Ref{Digest: d}); err != nil {
			t.Fatal(err)
		}
	}
	for _, key := range []string{
		"links/acme/_/hub/one/_/sha256/" + old.Encoded(), "links/acme/_/hub/one/_/sha256/" + gone.Encoded(), "links/acme/_/hub/one/_/sha256/" + lost.Encoded(),
		"refs/acme/_/hub/one/_/old", "refs/acme/_/hub/one/_/gone",
	} {
		if err := e.store.Mark(t.Context(), key, time.Now().Add(-2*idleAfter)); err != nil {
			t.Fatal(err)
		}
	}
	kept := func(want map[string]bool) {
		t.Helper()
		e.round()
		for name, want := range want {
			for where, x := range map[string]*index.Index{"memory": e.index, "disk": index.New(e.store)} {
				if _, err := x.Ref(t.Context(), "acme/_/hub/one", name); (err == nil) != want {
					t.Errorf("ref %s in %s: got the error %v, want it to exist: %v", name, where, err, want)
				}
			}
		}
		for d, want := range map[digest.Digest]bool{old: want["old"], gone: want["gone"], lost: want["gone"], fresh: want["fresh"]} {
			if e.linked("acme/_/hub/one", d) != want {
				t.Errorf("link to %s exists: got %v, want %v", d, !want, want)
			}
		}
	}
	blobs := filepath.Join(dirOf(e.store), "blobs")
	if err := os.Rename(blobs, blobs+".away"); err != nil { // as if a disk were missing
		t.Fatal(err)
	}
	kept(map[string]bool{"old": true, "gone": true, "fresh": true})
	if err := os.Rename(blobs+".away", blobs); err != nil {
		t.Fatal(err)
	}
	kept(map[string]bool{"old": true, "gone": false, "fresh": true})
}

// TestQuotasReserve checks that the bytes that fills have reserved count against the quotas of
// the owner and its parents, and against no other quota.
func TestQuotasReserve(t *testing.T) {
	q := NewQuotas(nil, nil, map[string]int64{"acme": 100, "acme/a": 60})
	for _, step := range []struct {
		scope string
		bytes int64
		ok    bool
	}{
		{"acme/a/_/hub/x", 50, true},
		{"acme/a/_/hub/y", 20, false}, // more than acme/a may have
		{"acme/b/_/hub/x", 40, true},
		{"acme/b/_/hub/x", 20, false}, // more than acme may have
		{"other/_/hub/x", 1 << 40, true},
		{"acme/a/_/hub/x", -50, true},
		{"acme/b/_/hub/x", 60, true},
		{"acme/b/_/hub/x", -100, true},
	} {
		if ok := q.Reserve(step.scope, step.bytes); ok != step.ok {
			t.Errorf("Reserve of %d bytes for %s: got %v, want %v", step.bytes, step.scope, ok, step.ok)
		}
	}
	if len(q.coming) != 0 {
		t.Errorf("got %v still reserved, want none", q.coming)
	}
}

// statStore is a FileStore that calls a function before each Stat.
type statStore struct {
	*store.FileStore
	before func()
}

func (s statStore) Stat(ctx context.Context, d digest.Digest) (store.Entry, error) {
	s.before()
	return s.FileStore.Stat(ctx, d)
}

// TestQuotasCountFillsOnce checks that content does not count twice against a quota if its
// fill ends during a measurement.
func TestQuotasCountFillsOnce(t *testing.T) {
	e := newQuotaFixture(t, map[string]int64{"acme": 65_000})
	e.pull("acme/_/hub/one", "m1", "a1", "b1")
	e.pull("acme/_/hub/two", "m2", "a2", "b2")
	e.pull("acme/_/hub/three", "m3", "a3", "b3")
	if !e.quotas.Reserve("acme/_/hub/three", 20_000) {
		t.Fatal("got no room for a fill, want 20000 bytes")
	}
	ended := sync.OnceFunc(func() { e.quotas.Reserve("acme/_/hub/three", -20_000) })
	e.cache.blobs = statStore{e.store, ended}
	e.round()
	e.expect("a1 b1 m1 a2 b2 m2 a3 b3 m3")
}

// TestQuotasCountFills checks that a round removes the links of the oldest image of an owner when
// a download in progress and the stored images together exceed the quota. It also checks that two downloads that together exceed the
// quota both arrive, and that only one of them is stored.
func TestQuotasCountFills(t *testing.T) {
	e := newQuotaFixture(t, map[string]int64{"acme": 68_000})
	one := e.pull("acme/_/hub/one", "m1", "a1", "b1")
	two := e.pull("acme/_/hub/two", "m2", "a2", "b2")
	other := e.pull("other/_/hub/one", "m4", "a4", "b4")
	reserve := func(bytes int64) bool { return e.quotas.Reserve("acme/_/hub/three", bytes) }
	get := func(n, size int) (io.ReadCloser, []byte, chan struct{}) {
		want, d := content(n, size)
		gate := make(chan struct{})
		r, _, err := e.cache.Get(t.Context(), fill.Request{Digest: d, Size: -1, Limit: 68_000, Reserve: reserve, Fetch: claiming(want, int64(size), gate)})
		if err != nil {
			t.Fatal(err)
		}
		return r, want, gate
	}
	whole := func(r io.Reader, want []byte) {
		t.Helper()
		if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, want) {
			t.Errorf("got %d bytes and the error %v, want the %d bytes of the content and no error", len(got), err, len(want))
		}
	}
	// The first download has all but its last byte, and has reserved its size.
	want, d := content(7, 40_000)
	gate := make(chan struct{})
	first, _, err := e.cache.Get(t.Context(), fill.Request{Digest: d, Size: -1, Limit: 68_000, Reserve: reserve, Fetch: func(context.Context, int64, int64, string) (*fill.Body, error) {
		rest := readFunc(func([]byte) (int, error) { <-gate; return 0, io.EOF })
		return &fill.Body{ReadCloser: io.NopCloser(io.MultiReader(bytes.NewReader(want[:39_999]), rest, bytes.NewReader(want[39_999:]))), Size: 40_000}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(first, make([]byte, 39_000)); err != nil {
		t.Fatal(err)
	}
	if pending, err := e.quotas.round(t.Context()); err != nil || !pending {
		t.Errorf("round during a download: got pending %v and the error %v, want true and no error", pending, err)
	}
	if e.linked("acme/_/hub/one", one) || !e.linked("acme/_/hub/two", two) || !e.linked("other/_/hub/one", other) {
		t.Errorf("linked images: got one: %v, two: %v, other: %v; want only the owner's oldest image, one, removed", e.linked("acme/_/hub/one", one), e.linked("acme/_/hub/two", two), e.linked("other/_/hub/one", other))
	}
	select {
	case <-e.quotas.kick:
	default:
	}
	e.quotas.Added("acme/_/hub/three", 1)
	select {
	case <-e.quotas.kick:
	default:
		t.Error("Added did not request a round for content that a download had reserved bytes for")
	}
	second, other40, through := get(8, 40_000)
	close(through)
	whole(second, other40)
	_ = second.Close()
	close(gate)
	whole(first, want[39_000:])
	_ = first.Close()
	e.cache.Flush(t.Context())
	if !has(t, e.cache, 7, 40_000) || has(t, e.cache, 8, 40_000) {
		t.Errorf("the first download is stored: %v, the second: %v; want true, false", has(t, e.cache, 7, 40_000), has(t, e.cache, 8, 40_000))
	}
	if len(e.quotas.coming) != 0 {
		t.Errorf("got %v still reserved, want none", e.quotas.coming)
	}
}

// TestQuotasDoNotCountUnstored checks that a link to content that was passed on without being
// stored does not count against the quota, and so causes no link to be removed.
func TestQuotasDoNotCountUnstored(t *testing.T) {
	e := newQuotaFixture(t, map[string]int64{"acme": 100_000})
	one := e.pull("acme/_/hub/one", "m1", "a1")
	if err := e.index.AddLink(t.Context(), "acme/_/hub/one", digest.FromString("large"), index.Link{Size: 300_000}); err != nil {
		t.Fatal(err)
	}
	e.round()
	if got := e.quotas.Totals()["acme"]; got.Blobs != 2 || got.Bytes > 100_000 {
		t.Errorf("got %+v, want 2 contents of at most 100000 bytes", got)
	}
	if !e.linked("acme/_/hub/one", one) {
		t.Error("the link to the stored image was removed")
	}
}
