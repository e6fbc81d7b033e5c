package pullthrough

import (
	"errors"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// newAbsent returns a fixture that remembers absences, and an upstream that has nothing.
func newAbsent(t *testing.T) (*fixture, *clocked) {
	f, up := newClocked(t)
	f.config.Absences, f.config.AbsentFor = NewAbsences().Own(), 10*time.Second
	up.set(func(u *clocked) { u.status = http.StatusNotFound })
	return f, up
}

// expectAbsent pulls a tag that does not exist, and checks whether upstream was asked.
func expectAbsent(t *testing.T, up *clocked, r *Repository, tag string, want upstream.Kind, asked bool) {
	t.Helper()
	before := up.count()
	for _, withContent := range []bool{true, false} {
		_, err := r.ManifestByTag(t.Context(), tag, withContent)
		expectKind(t, err, want)
	}
	if n := up.count() - before; (n > 0) != asked {
		t.Errorf("tag %s: upstream was asked %d times, want it asked: %v", tag, n, asked)
	}
}

// A missing tag is asked about once within Config.AbsentFor, and found after it.
func TestRepositoryAbsence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, up := newAbsent(t)
		r := f.repository("red", "team/app")
		expectAbsent(t, up, r, "2", upstream.ManifestUnknown, true)
		asked := up.count()
		for range 5 {
			expectAbsent(t, up, r, "2", upstream.ManifestUnknown, false)
		}
		if asked != 2 {
			t.Errorf("got %d requests, want a HEAD and the GET that confirms it", asked)
		}
		expectAbsent(t, up, r, "3", upstream.ManifestUnknown, true)
		up.set(func(u *clocked) { u.status = 0 })
		time.Sleep(9 * time.Second)
		expectAbsent(t, up, r, "2", upstream.ManifestUnknown, false)
		forced, err := f.repository("red", "team/app", func(c *Config) { c.Forced = true }).ManifestByTag(t.Context(), "3", true)
		if err != nil {
			t.Errorf("forced: got the error %v, want the tag", err)
		}
		forced.Content.Close()
		f.expectPull("3", Origin{Status: Hit}, manifestNumber("1"), 0)
		time.Sleep(time.Second)
		f.expectPull("2", Origin{Status: Miss}, manifestNumber("1"), 0)
	})
}

// What is absent for one group, login, repository or list is asked about for another, and
// so it is with another configuration or without AbsentFor.
func TestRepositoryAbsenceOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, up := newAbsent(t)
		expectAbsent(t, up, f.repository("red", "team/app"), "2", upstream.ManifestUnknown, true)
		for name, r := range map[string]*Repository{
			"group":      f.repository("blue", "team/app"),
			"subgroup":   f.repository("red/team", "team/app", func(c *Config) { c.Group = "red" }),
			"login":      f.repository("red", "team/app", func(c *Config) { c.Scope = "red/_/hub@2/team/app" }),
			"repository": f.repository("red", "team/other"),
			"reload":     f.repository("red", "team/app", func(c *Config) { c.Absences = f.config.Absences.Own() }),
			"off":        f.repository("red", "team/app", func(c *Config) { c.AbsentFor = 0 }),
		} {
			t.Log(name)
			expectAbsent(t, up, r, "2", upstream.ManifestUnknown, true)
		}
		expectAbsent(t, up, f.repository("red", "team/app"), "2", upstream.ManifestUnknown, false)
	})
}

// Denied access, outages and rate limits are not remembered as absences.
func TestRepositoryAbsenceOfAccess(t *testing.T) {
	for status, kind := range map[int]upstream.Kind{
		http.StatusUnauthorized: upstream.Denied, http.StatusForbidden: upstream.Denied, http.StatusInternalServerError: upstream.Unavailable,
	} {
		synctest.Test(t, func(t *testing.T) {
			f, up := newAbsent(t)
			up.set(func(u *clocked) { u.status = status })
			for range 3 {
				expectAbsent(t, up, f.repository("red", "team/app"), "2", kind, true)
			}
		})
	}
}

// A tag that is cached is served although it is absent, but not past Config.StaleFor;
// then it is asked about as often as a tag that never was there.
func TestRepositoryAbsenceOfStaleTag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, up := newAbsent(t)
		f.config.StaleFor = time.Hour
		time.Sleep(time.Minute)
		f.expectPull("1", Origin{Status: Stale, Reason: NotFound}, manifestNumber("1"), 0)
		f.expectPull("1", Origin{Status: Stale, Reason: NotFound}, manifestNumber("1"), 0)
		time.Sleep(time.Hour)
		r := f.repository("red", "team/app")
		expectAbsent(t, up, r, "1", upstream.ManifestUnknown, true)
		expectAbsent(t, up, r, "1", upstream.ManifestUnknown, false)
	})
}

// The list of a repository that does not exist is asked for once, and absences of a group
// or a repository are forgotten with its cache.
func TestAbsencesForget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, up := newAbsent(t)
		r, sub := f.repository("red", "team/app"), f.repository("red/team", "team/app")
		expectList := func(asked bool) {
			t.Helper()
			before := up.count()
			_, _, err := r.Tags(t.Context(), nil)
			expectKind(t, err, upstream.NameUnknown)
			if n := up.count() - before; (n > 0) != asked {
				t.Errorf("upstream was asked %d times for the list, want it asked: %v", n, asked)
			}
		}
		learn := func() {
			for _, r := range []*Repository{r, sub, f.repository("redder", "team/app")} {
				_, err := r.ManifestByTag(t.Context(), "2", true)
				expectKind(t, err, upstream.ManifestUnknown)
			}
			_, _, err := r.Tags(t.Context(), nil)
			expectKind(t, err, upstream.NameUnknown)
		}
		expectList(true)
		expectList(false)
		learn()
		NewAbsences().ForgetGroup("red") // of another process
		f.config.Absences.ForgetGroup("re")
		f.config.Absences.ForgetScope("red/_/hub@1/team/ap")
		expectList(false)
		f.config.Absences.ForgetScope("red/_/hub@1/team/app")
		expectAbsent(t, up, sub, "2", upstream.ManifestUnknown, false)
		expectAbsent(t, up, r, "2", upstream.ManifestUnknown, true)
		expectList(true)
		learn()
		f.config.Absences.ForgetGroup("red")
		expectList(true)
		expectAbsent(t, up, sub, "2", upstream.ManifestUnknown, true)
		expectAbsent(t, up, f.repository("redder", "team/app"), "2", upstream.ManifestUnknown, false)
	})
}

// A group that asks for many missing tags does not displace what is known for others.
func TestAbsencesBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, up := newAbsent(t)
		r := f.repository("red", "team/app")
		expectAbsent(t, up, r, "2", upstream.ManifestUnknown, true)
		greedy := f.repository("blue", "team/app")
		for i := range maxAbsencesOfOne + 1 {
			_, err := greedy.ManifestByTag(t.Context(), fmt.Sprint("x", i), true)
			expectKind(t, err, upstream.ManifestUnknown)
		}
		expectAbsent(t, up, r, "2", upstream.ManifestUnknown, false)
		expectAbsent(t, up, greedy, "x1", upstream.ManifestUnknown, false)
		expectAbsent(t, up, greedy, "x0", upstream.ManifestUnknown, true)
	})
}

// An error that says when to ask again is remembered as long, ten minutes at most, and the
// client is told what remains of that.
func TestRepositoryRetryAfter(t *testing.T) {
	for header, hold := range map[string]time.Duration{"20": 20 * time.Second, "3600": maxStaleHold} {
		synctest.Test(t, func(t *testing.T) {
			f, up := newAbsent(t)
			f.config.AbsentFor = 0
			up.set(func(u *clocked) {
				u.status, u.header = http.StatusServiceUnavailable, http.Header{"Retry-After": {header}}
			})
			r := f.repository("red", "team/app")
			expectAbsent(t, up, r, "2", upstream.Unavailable, true)
			if up.count() != 1 {
				t.Errorf("got %d requests for a HEAD and a GET of a tag, want 1", up.count())
			}
			time.Sleep(hold - time.Second)
			expectAbsent(t, up, r, "2", upstream.Unavailable, false)
			_, err := r.ManifestByTag(t.Context(), "2", true)
			if failure := (*upstream.Error)(nil); !errors.As(err, &failure) || failure.RetryAfter != time.Second {
				t.Errorf("got error %v, want one with the second that remains of Retry-After", err)
			}
			up.set(func(u *clocked) { u.status = 0 })
			time.Sleep(time.Second)
			f.expectPull("2", Origin{Status: Miss}, manifestNumber("1"), 0)
		})
	}
}
