package pullthrough

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// While upstream is down, nothing makes a request of it but the trials: not a forced
// question, a tag that was absent, a cold pull or a list. Once it is back, the first pull
// after the pause finds that out.
func TestRepositoryWhileUpstreamIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, up := newAbsent(t)
		absent, other := f.repository("red", "team/app"), f.repository("red", "team/other")
		expectAbsent(t, up, absent, "2", upstream.ManifestUnknown, true)
		up.set(func(u *clocked) { u.status = noResponse })
		for range 3 {
			_, err := other.ManifestByTag(t.Context(), "1", true)
			expectKind(t, err, upstream.Unavailable)
			_, err = absent.ManifestByTag(t.Context(), "3", true)
			expectKind(t, err, upstream.Unavailable)
		}
		up.set(func(*clocked) {})
		expectAbsent(t, up, absent, "2", upstream.ManifestUnknown, false)
		for what, ask := range map[string]func() error{
			"a cold pull": func() error { _, err := other.ManifestByTag(t.Context(), "9", true); return err },
			"a forced pull": func() error {
				_, err := f.repository("red", "team/app", forced).ManifestByTag(t.Context(), "2", true)
				return err
			},
			"a list": func() error { _, _, err := absent.Tags(t.Context(), nil); return err },
		} {
			err := ask()
			if failure := (*upstream.Error)(nil); !errors.As(err, &failure) || !failure.Held || failure.RetryAfter <= 0 {
				t.Errorf("%s: got %v, want that upstream was not asked, and Retry-After", what, err)
			}
		}
		if m, took := f.pullForced(); m.Status != Stale || m.Reason != Unreachable || took != 0 {
			t.Errorf("a forced pull of a cached tag: got %+v after %v, want a stale answer at once", m.Origin, took)
		}
		if got := up.count(); got != 0 {
			t.Errorf("got %d requests while upstream is down, want none", got)
		}
		up.set(func(u *clocked) { u.status, u.manifest = 0, manifestNumber("2") })
		time.Sleep(time.Minute)
		f.expectPull("1", Origin{Status: Revalidated}, manifestNumber("2"), 0)
		f.expectPull("2", Origin{Status: Miss}, manifestNumber("2"), 0)
	})
}
