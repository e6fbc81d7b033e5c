package blobcache

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// countEvicted counts evicted contents by reason.
func countEvicted(c *Cache) map[Reason]int {
	evicted := make(map[Reason]int)
	c.evictor.hooks.Evicted = func(_ store.Entry, why Reason, _ int64) { evicted[why]++ }
	return evicted
}

// expectUsage compares what a cache counts with what its store has.
func expectUsage(t *testing.T, c *Cache, blobs int) {
	t.Helper()
	var bytes int64
	n := 0
	if err := c.blobs.Walk(t.Context(), func(e store.Entry) error {
		bytes, n = bytes+e.Size, n+1
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if u := c.Usage(t.Context()); u.Bytes != bytes || u.Blobs != n || n != blobs || u.Fills != 0 {
		t.Errorf("got the usage %+v, want %d bytes, %d blobs, which should be %d, and no fills", u, bytes, n, blobs)
	}
}

// TestUsage checks that the usage is that of the store, before a walk and after it, and
// why content is evicted.
func TestUsage(t *testing.T) {
	const size = 1000
	c, files := kept(t, t.TempDir(), Limits{MaxSize: 10 * size, UnusedFor: 24 * time.Hour})
	evicted := countEvicted(c)
	for n := range 10 {
		pull(t, c, n, size)
	}
	expectUsage(t, c, 10)
	sweep(t, c)
	expectUsage(t, c, 9)
	if want := map[Reason]int{ReasonSize: 1}; !maps.Equal(evicted, want) {
		t.Errorf("full cache: got %v evicted, want %v", evicted, want)
	}
	clear(evicted)
	for n := range 10 {
		if n != 4 {
			age(t, files, n, size, 25*time.Hour)
		}
	}
	sweep(t, c)
	expectUsage(t, c, 1)
	if want := map[Reason]int{ReasonUnused: 8}; !maps.Equal(evicted, want) {
		t.Errorf("unused content: got %v evicted, want %v", evicted, want)
	}
	if u := c.Usage(t.Context()); u.Limit <= 0 || u.Limit > 10*size {
		t.Errorf("got a limit of %d bytes, want up to %d", u.Limit, 10*size)
	}
	_, d := content(4, size)
	if !c.heal(t.Context(), d, store.ErrDamaged) {
		t.Fatal("damaged content was not removed")
	}
	expectUsage(t, c, 0)
}

// deadDisk is a store whose disk does not tell its free space while it is stuck.
type deadDisk struct {
	*store.FileStore
	stuck chan struct{}
	asked atomic.Int32
}

func (d *deadDisk) Free(context.Context) (free, total int64, err error) {
	d.asked.Add(1)
	<-d.stuck
	return 1 << 30, 2 << 30, nil
}

// TestUsageOfDeadDisk checks that a disk that does not answer delays callers only
// briefly, and is measured once for all of them.
func TestUsageOfDeadDisk(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		files, err := store.OpenFileStore(dir)
		if err != nil {
			t.Fatal(err)
		}
		disk := &deadDisk{FileStore: files, stuck: make(chan struct{})}
		c := New(disk, Limits{Reserve: 1}, Hooks{})
		var askers sync.WaitGroup
		for range 20 {
			askers.Go(func() {
				begin := time.Now()
				if u := c.Usage(t.Context()); u.Limit != 0 || time.Since(begin) > time.Second {
					t.Errorf("got the usage %+v after %v, want no limit within a second", u, time.Since(begin))
				}
			})
		}
		askers.Wait()
		if n := disk.asked.Load(); n != 1 {
			t.Errorf("got %d questions, want 1", n)
		}
		close(disk.stuck)
		synctest.Wait()
		if u := c.Usage(t.Context()); u.Limit != 2<<30-1 || disk.asked.Load() != 2 {
			t.Errorf("got the usage %+v and %d questions, want the limit of a disk that answers again", u, disk.asked.Load())
		}
	})
}

// TestEvictedByQuotas checks why content is evicted that has lost its links.
func TestEvictedByQuotas(t *testing.T) {
	e := newQuotaFixture(t, map[string]int64{"acme": 45_000})
	evicted := countEvicted(e.cache)
	e.pull("acme/_/hub/one", "m1", "a1", "b1")
	e.pull("acme/_/hub/two", "m2", "a2", "b2")
	e.pull("acme/_/hub/three", "m3", "a3", "b3")
	e.round()
	if want := map[Reason]int{ReasonQuota: 3}; !maps.Equal(evicted, want) {
		t.Errorf("over the quota: got %v evicted, want %v", evicted, want)
	}
	clear(evicted)
	if _, err := e.quotas.Purge(t.Context(), "acme"); err != nil {
		t.Fatal(err)
	}
	e.round()
	if want := map[Reason]int{ReasonPurge: 6}; !maps.Equal(evicted, want) {
		t.Errorf("after a purge: got %v evicted, want %v", evicted, want)
	}
}
