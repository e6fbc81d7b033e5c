package blobcache

import (
	"errors"
	"io/fs"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
)

// quotaFixture is an imageFixture with an index of owners and their quotas.
type quotaFixture struct {
	*imageFixture
	index   *index.Index
	quotas  *Quotas
	trimmed map[string]int64 // bytes by owner
}

func newQuotaFixture(t *testing.T, limits map[string]int64) *quotaFixture {
	g := newImageFixture(t, Limits{})
	e := &quotaFixture{imageFixture: g, index: index.New(g.store), trimmed: make(map[string]int64)}
	g.cache.hooks.Trimmed = func(owner string, links int, size int64) {
		if links == 0 {
			t.Errorf("Trimmed hook: %s lost %d bytes with 0 links, want at least 1 link", owner, size)
		}
		e.trimmed[owner] += size
	}
	e.quotas = NewQuotas(g.cache, e.index, limits)
	return e
}

// pull stores an image with the given layers, links it to the scope, and records a use of it.
func (e *quotaFixture) pull(scope, name string, layers ...string) digest.Digest {
	e.t.Helper()
	var parts []digest.Digest
	for _, layer := range layers {
		parts = append(parts, e.layer(layer, 10_000))
	}
	m := e.naming(name, false, parts...)
	for _, d := range append(parts, m) {
		if err := e.index.AddLink(e.t.Context(), scope, d, index.Link{Size: e.size(d)}); err != nil {
			e.t.Fatal(err)
		}
	}
	e.use(scope, m)
	e.now = e.now.Add(time.Hour)
	return m
}

// size returns the size of stored content in bytes.
func (e *quotaFixture) size(d digest.Digest) int64 {
	e.t.Helper()
	entry, err := e.store.Stat(e.t.Context(), d)
	if err != nil {
		e.t.Fatal(err)
	}
	return entry.Size
}

// use records a HEAD request for an image, and writes all recorded uses to the disk.
func (e *quotaFixture) use(scope string, d digest.Digest) {
	e.t.Helper()
	e.quotas.Used(scope, d, true)
	u := &e.quotas.uses
	for it, use := range u.last {
		use.at = e.now
		u.last[it] = use
	}
	e.quotas.writeUses(e.t.Context())
	e.cache.evictor.writeUses(e.t.Context())
}

// round runs one round of the quotas.
func (e *quotaFixture) round() {
	e.t.Helper()
	if _, err := e.quotas.round(e.t.Context()); err != nil {
		e.t.Fatal(err)
	}
}

// linked reports whether the scope has a link to d. The index in memory and the records on
// disk must agree.
func (e *quotaFixture) linked(scope string, d digest.Digest) bool {
	_, err := e.index.Link(e.t.Context(), scope, d)
	_, disk := index.New(e.store).Link(e.t.Context(), scope, d)
	if (err == nil) != (disk == nil) {
		e.t.Errorf("link of %s to %s: got the error %v in memory and %v on disk, want both or neither", scope, e.names[d], err, disk)
	}
	return err == nil
}

// TestQuotasTrim checks that a round removes whole images of a group over its quota, the least
// recently pulled first, and no image of another group.
func TestQuotasTrim(t *testing.T) {
	e := newQuotaFixture(t, map[string]int64{"acme": 65_000})
	one := e.pull("acme/_/hub/one", "m1", "a1", "b1")
	two := e.pull("acme/_/hub/two", "m2", "a2", "b2")
	shared := e.pull("acme/_/hub/three", "m3", "a3", "b3")
	e.pull("other/_/hub/three", "m3", "a3", "b3")
	e.round()
	if got := e.quotas.Totals(); got["acme"].Blobs != 9 || got["other"].Blobs != 3 || got["acme"].Bytes < 60_000 || e.trimmed["acme"] != 0 {
		t.Errorf("within the quota: got totals %+v and %d bytes trimmed from acme, want 9 blobs of acme in at least 60000 bytes, 3 blobs of other, and 0 bytes trimmed", got, e.trimmed["acme"])
	}
	e.use("acme/_/hub/one", one)
	e.now = e.now.Add(time.Hour)
	e.pull("acme/_/hub/four", "m4", "a4")
	e.round()
	e.expect("a1 b1 m1 a3 b3 m3 a4 m4")
	if e.linked("acme/_/hub/two", two) || !e.linked("acme/_/hub/one", one) {
		t.Errorf("acme has image two: %v, image one: %v; want false, true", e.linked("acme/_/hub/two", two), e.linked("acme/_/hub/one", one))
	}
	if size := e.trimmed["acme"]; size < 20_000 || size > 21_000 || len(e.trimmed) != 1 {
		t.Errorf("got the trimmed bytes %v, want 20000 to 21000 of acme only", e.trimmed)
	}
	// Content that another group has as well is not removed with the links of this group.
	e.pull("acme/_/hub/five", "m5", "a5", "b5")
	e.round()
	e.expect("a1 b1 m1 a3 b3 m3 a4 m4 a5 b5 m5")
	if e.linked("acme/_/hub/three", shared) || !e.linked("other/_/hub/three", shared) {
		t.Errorf("image three is linked by acme: %v, by other: %v; want false, true", e.linked("acme/_/hub/three", shared), e.linked("other/_/hub/three", shared))
	}
	totals := e.quotas.Totals()
	if got := totals["acme"]; got.Bytes > 65_000 || got.Blobs != 8 || time.Since(got.Measured) > time.Hour {
		t.Errorf("totals of acme: got %+v, want 8 blobs of at most 65000 bytes, measured within the last hour", got)
	}
	// A second round removes nothing more.
	before := maps.Clone(e.trimmed)
	e.round()
	if !maps.Equal(before, e.trimmed) {
		t.Errorf("after a second round: got the trimmed bytes %v, want %v", e.trimmed, before)
	}
}

// TestQuotasOfSubgroups checks that the content of subgroups counts once against the quota of
// their parent, and that a round removes it when the parent is over its quota.
func TestQuotasOfSubgroups(t *testing.T) {
	e := newQuotaFixture(t, map[string]int64{"acme": 65_000, "acme/sub": 25_000})
	e.pull("acme/_/hub/one", "m1", "a1", "b1")
	e.pull("acme/sub/_/hub/one", "m1", "a1", "b1")
	e.pull("acme/sub/deep/_/hub/two", "m2", "a2")
	e.pull("acme-not/_/hub/nine", "m9", "a9", "b9", "c9", "d9", "e9", "f9", "g9")
	e.round()
	e.expect("a1 b1 m1 a2 m2 a9 b9 c9 d9 e9 f9 g9 m9") // acme still has m1, a1 and b1
	totals := e.quotas.Totals()
	if totals["acme"].Blobs != 5 || totals["acme/sub"].Blobs != 2 || totals["acme/sub/deep"].Blobs != 2 || totals["acme-not"].Blobs != 8 {
		t.Errorf("got totals %+v, want 5 blobs of acme, 2 of acme/sub, 2 of acme/sub/deep and 8 of acme-not", totals)
	}
	e.pull("acme/_/hub/three", "m3", "a3", "b3", "c3", "d3")
	e.round()
	e.expect("a2 m2 a3 b3 c3 d3 m3 a9 b9 c9 d9 e9 f9 g9 m9")
	if got := e.quotas.Totals()["acme"].Bytes; got > 65_000 {
		t.Errorf("got %d bytes of acme, want at most 65000", got)
	}
}

// TestQuotasTrimSparesUsedContent checks that trim keeps an image that was used between the
// measurement and the removal.
func TestQuotasTrimSparesUsedContent(t *testing.T) {
	e := newQuotaFixture(t, map[string]int64{"acme": 5_000})
	one := e.pull("acme/_/hub/one", "m1", "a1")
	two := e.pull("acme/_/hub/two", "m2", "a2")
	m, err := e.quotas.measure(t.Context())
	if err != nil || len(m.over["acme"]) != 4 {
		t.Fatalf("measure: got %v over the quota and the error %v, want 4 contents of acme and no error", m.over, err)
	}
	e.quotas.Used("acme/_/hub/one", one, true)
	if err := e.quotas.trim(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	e.expect("m1 a1")
	if !e.linked("acme/_/hub/one", one) || e.linked("acme/_/hub/two", two) {
		t.Errorf("acme has image one: %v, image two: %v; want true, false", e.linked("acme/_/hub/one", one), e.linked("acme/_/hub/two", two))
	}
}

// TestQuotasKeep checks that Quotas.Keep runs a round soon after the start, when a group may be
// over its quota, and when content was still being downloaded.
func TestQuotasKeep(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c, store := kept(t, dir, Limits{})
		known := index.New(store)
		q := NewQuotas(c, known, map[string]int64{"acme": 2500})
		done := make(chan struct{})
		go func() { defer close(done); q.Keep(t.Context()) }()
		link := func(n int) {
			_, d := content(n, 1000)
			if err := known.AddLink(t.Context(), "acme/_/x", d, index.Link{Size: 1000}); err != nil {
				t.Error(err)
			}
		}
		if q.Totals() != nil {
			t.Errorf("before the first round: got totals %+v, want nil", q.Totals())
		}
		for n := range 2 {
			pull(t, c, n, 1000)
			link(n)
			q.Added("acme/_/x", 1000)
		}
		time.Sleep(quotaDelay + time.Second)
		if got := q.Totals()["acme"]; got.Bytes != 2000 || got.Blobs != 2 {
			t.Errorf("totals of acme: got %+v, want 2 blobs of 2000 bytes", got)
		}
		link(2)
		q.Added("acme/_/x", 1000) // its content is stored a little later
		time.Sleep(10 * time.Second)
		pull(t, c, 2, 1000)
		time.Sleep(2 * quotaPending)
		if got := q.Totals()["acme"]; got.Bytes != 2000 || got.Blobs != 2 {
			t.Errorf("totals of acme: got %+v, want 2 blobs of 2000 bytes", got)
		}
	})
}

// TestQuotasOnBrokenDisk checks that a round reports records that it cannot list, mark or
// remove, and that the next round trims the group.
func TestQuotasOnBrokenDisk(t *testing.T) {
	e := newQuotaFixture(t, map[string]int64{"acme": 15_000})
	one := e.pull("acme/_/hub/one", "m1", "a1")
	two := e.pull("acme/_/hub/two", "m2", "a2")
	var troubles []string
	e.cache.hooks.StorageError = func(op string, err error) { troubles = append(troubles, op) }
	broken := &brokenRecords{Records: e.store, fail: map[string]error{"delete": fs.ErrPermission, "mark": fs.ErrPermission}}
	e.index = index.New(broken)
	e.quotas.index = e.index
	e.quotas.Used("acme/_/hub/one", one, true)
	e.round()
	e.expect("m1 a1 m2 a2")
	if !e.linked("acme/_/hub/one", one) && !e.linked("acme/_/hub/two", two) {
		t.Error("acme lost both images, want at least one kept")
	}
	if !slices.Contains(troubles, "remove a link") || !slices.Contains(troubles, "record an owner's use") {
		t.Errorf("got storage errors of %q, want those of removing a link and of recording an owner's use", troubles)
	}
	broken.fail = map[string]error{"list": errors.New("no list")}
	if _, err := e.quotas.round(t.Context()); !errors.Is(err, broken.fail["list"]) {
		t.Errorf("round: got the error %v, want %v", err, broken.fail["list"])
	}
	broken.fail = nil
	e.round()
	if got := e.quotas.Totals()["acme"].Bytes; got > 15_000 {
		t.Errorf("got %d bytes of acme, want at most 15000", got)
	}
}
