package pullthrough

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// A list that upstream does not have any more is served as long as it may be, and asked
// about once within Config.AbsentFor.
func TestRepositoryListStaleAndAbsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, up := newClocked(t)
		f.config.Absences, f.config.AbsentFor, f.config.StaleFor = NewAbsences().Own(), 10*time.Second, 2*time.Hour
		up.set(func(u *clocked) { u.manifest = []byte(`{"name":"team/app","tags":["1"]}`) })
		r := f.repository("red", "team/app")
		if _, _, err := r.Tags(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		up.set(func(u *clocked) { u.status = http.StatusNotFound })
		for range 5 {
			_, origin, err := r.Tags(t.Context(), nil)
			if err != nil || origin.Status != Stale || origin.Reason != NotFound {
				t.Errorf("got %+v and error %v, want a stale list because upstream does not have it", origin, err)
			}
		}
		if got := up.count(); got != 1 {
			t.Errorf("got %d requests, want 1", got)
		}
		time.Sleep(10 * time.Second)
		up.set(func(u *clocked) { u.status = 0 })
		if _, origin, err := r.Tags(t.Context(), nil); err != nil || origin.Status != Miss {
			t.Errorf("got %+v and error %v, want the list of upstream, which is back", origin, err)
		}
		time.Sleep(2*time.Hour + 1)
		up.set(func(u *clocked) { u.status = http.StatusNotFound })
		for range 3 {
			_, _, err := r.Tags(t.Context(), nil)
			expectKind(t, err, upstream.NameUnknown)
		}
		if got := up.count(); got != 1 {
			t.Errorf("past StaleFor: got %d requests, want 1", got)
		}
	})
}
