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

// quotaFixture is a imageFixture with owners.
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
			t.Errorf("%s lost %d bytes with no link", owner, size)
		}
		e.trimmed[owner] += size
	}
	e.quotas = NewQuotas(g.cache, e.index, limits)
	return e
}

// pull has a scope link an image of layers, and use it.
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

// size is the size of stored content in bytes.
func (e *quotaFixture) size(d digest.Digest) int64 {
	e.t.Helper()
	entry, err := e.store.Stat(e.t.Context(), d)
	if err != nil {
		e.t.Fatal(err)
	}
	return entry.Size
}

// use is the HEAD of an image. All that was done up to now is written down.
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

func (e *quotaFixture) round() {
	e.t.Helper()
	if _, err := e.quotas.round(e.t.Context()); err != nil {
		e.t.Fatal(err)
	}
}

func (e *quotaFixture) linked(scope string, d digest.Digest) bool {
	_, err := e.index.Link(e.t.Context(), scope, d)
	_, disk := index.New(e.store).Link(e.t.Context(), scope, d)
	if (err == nil) != (disk == nil) {
		e.t.Errorf("%s has %s in memory: %v, on disk: %v", scope, e.names[d], err, disk)
	}
	return err == nil
}

// TestQuotasTrim: a group over its quota loses whole images, of its own alone, and
// the least recently pulled first.
func TestQuotasTrim(t *testing.T) {
	e := newQuotaFixture(t, map[string]int64{"acme": 65_000})
	one := e.pull("acme/_/hub/one", "m1", "a1", "b1")
	two := e.pull("acme/_/hub/two", "m2", "a2", "b2")
	shared := e.pull("acme/_/hub/three", "m3", "a3", "b3")
	e.pull("other/_/hub/three", "m3", "a3", "b3")
	e.round()
	if got := e.quotas.Totals(); got["acme"].Blobs != 9 || got["other"].Blobs != 3 || got["acme"].Bytes < 60_000 || e.trimmed["acme"] != 0 {
		t.Errorf("within the quota: %+v", got)
	}
	e.use("acme/_/hub/one", one)
	e.now = e.now.Add(time.Hour)
	e.pull("acme/_/hub/four", "m4", "a4")
	e.round()
	e.expect("a1 b1 m1 a3 b3 m3 a4 m4")
	if e.linked("acme/_/hub/two", two) || !e.linked("acme/_/hub/one", one) {
		t.Error("the wrong links are left")
	}
	if size := e.trimmed["acme"]; size < 20_000 || size > 21_000 || len(e.trimmed) != 1 {
		t.Errorf("trimmed: %v", e.trimmed)
	}
	// What another group has too is not removed with this one's links.
	e.pull("acme/_/hub/five", "m5", "a5", "b5")
	e.round()
	e.expect("a1 b1 m1 a3 b3 m3 a4 m4 a5 b5 m5")
	if e.linked("acme/_/hub/three", shared) || !e.linked("other/_/hub/three", shared) {
		t.Error("the wrong links are left")
	}
	totals := e.quotas.Totals()
	if got := totals["acme"]; got.Bytes > 65_000 || got.Blobs != 8 || time.Since(got.Measured) > time.Hour {
		t.Errorf("%+v", got)
	}
	// And nothing is done twice.
	before := maps.Clone(e.trimmed)
	e.round()
	if !maps.Equal(before, e.trimmed) {
		t.Errorf("trimmed again: %v", e.trimmed)
	}
}

// TestQuotasOfSubgroups: what subgroups have counts once, and goes too.
func TestQuotasOfSubgroups(t *testing.T) {
	e := newQuotaFixture(t, map[string]int64{"acme": 65_000, "acme/sub": 25_000})
	e.pull("acme/_/hub/one", "m1", "a1", "b1")
	e.pull("acme/sub/_/hub/one", "m1", "a1", "b1")
	e.pull("acme/sub/deep/_/hub/two", "m2", "a2")
	e.pull("acme-not/_/hub/nine", "m9", "a9", "b9", "c9", "d9", "e9", "f9", "g9")
	e.round()
	e.expect("a1 b1 m1 a2 m2 a9 b9 c9 d9 e9 f9 g9 m9") // acme has them still
	totals := e.quotas.Totals()
	if totals["acme"].Blobs != 5 || totals["acme/sub"].Blobs != 2 || totals["acme/sub/deep"].Blobs != 2 || totals["acme-not"].Blobs != 8 {
		t.Errorf("%+v", totals)
	}
	e.pull("acme/_/hub/three", "m3", "a3", "b3", "c3", "d3")
	e.round()
	e.expect("a2 m2 a3 b3 c3 d3 m3 a9 b9 c9 d9 e9 f9 g9 m9")
	if got := e.quotas.Totals()["acme"].Bytes; got > 65_000 {
		t.Errorf("%d bytes", got)
	}
}

// TestQuotasTrimSparesUsedContent between the measure and the removal.
func TestQuotasTrimSparesUsedContent(t *testing.T) {
	e := newQuotaFixture(t, map[string]int64{"acme": 5_000})
	one := e.pull("acme/_/hub/one", "m1", "a1")
	two := e.pull("acme/_/hub/two", "m2", "a2")
	m, err := e.quotas.measure(t.Context())
	if err != nil || len(m.over["acme"]) != 4 {
		t.Fatalf("%v, %v", m.over, err)
	}
	e.quotas.Used("acme/_/hub/one", one, true)
	if err := e.quotas.trim(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	e.expect("m1 a1")
	if !e.linked("acme/_/hub/one", one) || e.linked("acme/_/hub/two", two) {
		t.Error("the wrong links are left")
	}
}

// TestQuotasKeep has a round come soon after the start, when a group may have
// too much, and when something was on its way.
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
			t.Error("measured at once")
		}
		for n := range 2 {
			pull(t, c, n, 1000)
			link(n)
			q.Added("acme/_/x", 1000)
		}
		time.Sleep(quotaDelay + time.Second)
		if got := q.Totals()["acme"]; got.Bytes != 2000 || got.Blobs != 2 {
			t.Errorf("%+v", got)
		}
		link(2)
		q.Added("acme/_/x", 1000) // and it is stored a little later
		time.Sleep(10 * time.Second)
		pull(t, c, 2, 1000)
		time.Sleep(2 * quotaPending)
		if got := q.Totals()["acme"]; got.Bytes != 2000 || got.Blobs != 2 {
			t.Errorf("%+v", got)
		}
	})
}

// TestQuotasOnBrokenDisk: records that cannot be listed, marked or removed are
// trouble, and no more.
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
		t.Error("all links are lost")
	}
	if !slices.Contains(troubles, "remove a link") || !slices.Contains(troubles, "record an owner's use") {
		t.Errorf("troubles: %v", troubles)
	}
	broken.fail = map[string]error{"list": errors.New("no list")}
	if _, err := e.quotas.round(t.Context()); !errors.Is(err, broken.fail["list"]) {
		t.Errorf("round: %v", err)
	}
	broken.fail = nil
	e.round()
	if got := e.quotas.Totals()["acme"].Bytes; got > 15_000 {
		t.Errorf("%d bytes", got)
	}
}
