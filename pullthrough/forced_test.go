package pullthrough

import (
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func forced(c *Config) { c.Forced = true }

// pullForced pulls the tag 1, and returns where the answer is from and how long it took.
func (f *fixture) pullForced() (m Manifest, took time.Duration) {
	f.t.Helper()
	begin := time.Now()
	m, err := f.repository("red", "team/app", forced).ManifestByTag(f.t.Context(), "1", true)
	if err != nil {
		f.t.Fatal(err)
	}
	m.Content.Close()
	return m, time.Since(begin)
}

// A forced request gets what upstream has now, although the tag is fresh, and so do the
// requests after it.
func TestRepositoryForced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, up := newClocked(t)
		f.expectPull("1", Origin{Status: Hit}, manifestNumber("1"), 0)
		up.set(func(u *clocked) { u.manifest, u.delay = manifestNumber("2"), 2*time.Second })
		if m, took := f.pullForced(); m.Status != Revalidated || took != 4*time.Second { // HEAD and GET
			t.Errorf("got status %d after %v, want %d after 4s", m.Status, took, Revalidated)
		}
		f.expectPull("1", Origin{Status: Hit}, manifestNumber("2"), 0)
	})
}

// Concurrent forced requests of a tag share one question, also while one is in progress
// that is not forced.
func TestRepositoryForcedIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, up := newClocked(t)
		time.Sleep(time.Minute)
		up.set(func(u *clocked) { u.delay = 2 * time.Second })
		f.expectPull("1", Origin{Status: Stale, Reason: Slow}, manifestNumber("1"), 500*time.Millisecond)
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if m, took := f.pullForced(); m.Status != Revalidated || took != 2*time.Second {
					t.Errorf("got status %d after %v, want %d after 2s", m.Status, took, Revalidated)
				}
			})
		}
		all.Wait()
		if got := up.count(); got != 2 {
			t.Errorf("got %d questions, want one that is forced and one that is not", got)
		}
	})
}

// A question that is answered late, or not at all, does not replace the answer to a
// forced one that was asked later.
func TestRepositoryForcedOvertakes(t *testing.T) {
	for what, late := range map[string]func(*clocked){
		"an old answer": func(u *clocked) { u.delay = 20 * time.Second },
		"no answer":     func(u *clocked) { u.delay = never },
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, up := newClocked(t)
				f.config.FreshFor = 10 * time.Minute
				time.Sleep(10 * time.Minute)
				up.set(late)
				f.expectPull("1", Origin{Status: Stale, Reason: Slow}, manifestNumber("1"), 500*time.Millisecond)
				up.set(func(u *clocked) { u.manifest, u.delay = manifestNumber("2"), 0 })
				if m, _ := f.pullForced(); m.Status != Revalidated {
					t.Errorf("got status %d, want %d", m.Status, Revalidated)
				}
				time.Sleep(time.Minute)
				f.expectPull("1", Origin{Status: Hit}, manifestNumber("2"), 0)
			})
		})
	}
}

// If upstream fails, a forced request gets a stale answer too, and asks upstream during
// the pause after the failure.
func TestRepositoryForcedWhileUpstreamFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, up := newClocked(t)
		up.set(func(u *clocked) { u.status = http.StatusNotFound })
		for range 2 {
			if m, _ := f.pullForced(); m.Status != Stale || m.Reason != NotFound {
				t.Errorf("got %+v, want a stale answer because upstream does not have the tag", m.Origin)
			}
		}
		if up.count() < 2 {
			t.Errorf("got %d questions, want one for each request", up.count())
		}
		f.expectPull("1", Origin{Status: Hit}, manifestNumber("1"), 0)
	})
}

// However often a tag is forced, upstream is asked once a second, and each request gets
// what upstream has after it was sent.
func TestRepositoryForcedIsPaced(t *testing.T) {
	for _, status := range []int{0, http.StatusNotFound, http.StatusInternalServerError} {
		synctest.Test(t, func(t *testing.T) {
			f, up := newClocked(t)
			up.set(func(u *clocked) { u.status = status })
			begin := time.Now()
			for range 5 {
				f.pullForced()
			}
			if took := time.Since(begin); took != 4*time.Second {
				t.Errorf("status %d: got five answers in a row after %v, want them after 4s", status, took)
			}
			up.set(func(*clocked) {})
			var all sync.WaitGroup
			for i := range 1000 {
				all.Go(func() {
					time.Sleep(time.Duration(i) * time.Millisecond)
					f.pullForced()
				})
			}
			all.Wait()
			if got := up.count(); got > 2*2 { // a HEAD may be followed by a GET
				t.Errorf("status %d: got %d requests in a second, want one or two questions", status, got)
			}
			up.set(func(u *clocked) { u.status, u.manifest = 0, manifestNumber("2") })
			if m, _ := f.pullForced(); m.Status != Revalidated {
				t.Errorf("status %d: got %+v, want what upstream has now", status, m)
			}
			f.expectPull("1", Origin{Status: Hit}, manifestNumber("2"), 0)
		})
	}
}
