package pullthrough

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// TestOutageOfTenMinutes pulls ten cached tags of three repositories once a second while
// upstream is silent. Only the first pull waits for long, upstream is tried now and then,
// what is not cached fails at once, and all is well soon after upstream has returned.
func TestOutageOfTenMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, up := newClocked(t)
		f.config.StaleFor = Forever
		pull := func(i int) (Origin, time.Duration, error) {
			begin := time.Now()
			r := f.repository("red", fmt.Sprintf("team/app%d", i%3))
			m, err := r.ManifestByTag(t.Context(), fmt.Sprint(i), true)
			m.Content.Close()
			return m.Origin, time.Since(begin), err
		}
		for i := range 10 {
			if _, _, err := pull(i); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(f.config.FreshFor)
		up.set(func(u *clocked) { u.delay = never })
		var waits []time.Duration
		for range 600 {
			for i := range 10 {
				origin, took, err := pull(i)
				if err != nil || origin.Status != Stale {
					t.Fatalf("tag %d: got status %d and error %v, want a stale answer", i, origin.Status, err)
				}
				if took > 50*time.Millisecond {
					waits = append(waits, took)
				}
			}
			time.Sleep(time.Second)
		}
		if len(waits) != 1 || waits[0] != f.config.Patience {
			t.Errorf("got waits of %v, want one of %v", waits, f.config.Patience)
		}
		if n := up.count(); n > 40 {
			t.Errorf("got %d requests in ten minutes, want at most 40", n)
		}
		for i := range 20 {
			_, took, err := pull(100 + i)
			if expectKind(t, err, upstream.Timeout); took > 3*time.Second {
				t.Errorf("a tag that is not cached: got an error after %v, want one within 3s", took)
			}
		}
		if state := f.config.Registry.States()[0]; !state.Down {
			t.Errorf("got state %+v, want it down", state)
		}
		up.set(func(u *clocked) { u.delay = time.Millisecond })
		returned := time.Now()
		for {
			if origin, _, err := pull(0); err != nil || origin.Status == Revalidated {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(returned); took > 95*time.Second { // a trial in progress, and a pause
			t.Errorf("got a fresh answer %v after upstream has returned", took)
		}
	})
}

// TestOutageOfSlowUpstream checks that an upstream that is slow but answers is not taken
// for one that is down, and that its answers are used.
func TestOutageOfSlowUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, up := newClocked(t)
		f.config.StaleFor = Forever
		up.set(func(u *clocked) { u.delay = 8 * time.Second })
		for i := range 60 {
			if _, err := f.repository("red", fmt.Sprintf("team/app%d", i%3)).ManifestByTag(t.Context(), fmt.Sprint("cold", i), true); err != nil {
				t.Fatalf("a tag that is not cached: got %v, want the manifest", err)
			}
			if m, err := f.repository("red", "team/app").ManifestByTag(t.Context(), "1", false); err != nil || m.Status == Stale && m.Reason != Slow {
				t.Fatalf("a cached tag: got %+v and error %v, want an answer", m, err)
			}
		}
		if state := f.config.Registry.States()[0]; state.Down || state.LastError != "" {
			t.Errorf("got state %+v, want it up", state)
		}
		if checked := f.checked("1"); time.Since(checked) > 2*f.config.FreshFor {
			t.Errorf("the cached tag was checked %v ago, want that it is checked as ever", time.Since(checked))
		}
	})
}
