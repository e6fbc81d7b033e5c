package pullthrough

import (
	"errors"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

// A request that has a stale answer waits for upstream for its patience, and those
// that come while the same question is in progress do not wait longer than that all
// together. The question goes on, and the next request sees its answer.
func TestRepositoryPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, up := newClocked(t)
		time.Sleep(time.Minute)
		up.set(func(u *clocked) { u.delay, u.manifest = 10*time.Second, manifestNumber("2") })
		f.expectPull("1", Origin{Status: Stale, Reason: Slow}, manifestNumber("1"), 500*time.Millisecond)
		for range 3 {
			f.expectPull("1", Origin{Status: Stale, Reason: Slow}, manifestNumber("1"), 0)
		}
		if up.count() != 1 {
			t.Errorf("got %d questions, want 1", up.count())
		}
		time.Sleep(20 * time.Second) // a HEAD, and a GET since the tag has moved
		f.expectPull("1", Origin{Status: Hit}, manifestNumber("2"), 0)
		if up.count() != 2 {
			t.Errorf("got %d questions, want 2", up.count())
		}
	})
}

// The second request of a question waits only for what is left of the patience.
func TestRepositoryPatienceIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, up := newClocked(t)
		time.Sleep(time.Minute)
		up.set(func(u *clocked) { u.delay = 300 * time.Millisecond })
		f.config.Patience = 200 * time.Millisecond
		var all sync.WaitGroup
		all.Go(func() {
			f.expectPull("1", Origin{Status: Stale, Reason: Slow}, manifestNumber("1"), 200*time.Millisecond)
		})
		time.Sleep(150 * time.Millisecond)
		f.expectPull("1", Origin{Status: Stale, Reason: Slow}, manifestNumber("1"), 50*time.Millisecond)
		all.Wait()
		time.Sleep(2 * time.Minute)
		f.config.Patience = time.Second
		f.expectPull("1", Origin{Status: Revalidated}, manifestNumber("1"), 300*time.Millisecond)
	})
}

// A silent upstream makes one request wait for the whole patience, those after it hardly,
// and is not asked during the pause after a question that it leaves unanswered.
func TestRepositoryPatienceWithSilentUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, up := newClocked(t)
		time.Sleep(time.Minute)
		up.set(func(u *clocked) { u.delay = never })
		slow, late := Origin{Status: Stale, Reason: Slow}, Origin{Status: Stale, Reason: TimedOut}
		f.expectPull("1", slow, manifestNumber("1"), 500*time.Millisecond)
		f.expectPull("1", slow, manifestNumber("1"), 0)
		time.Sleep(30 * time.Second)
		f.expectPull("1", late, manifestNumber("1"), 0)
		time.Sleep(staleHold)
		f.expectPull("1", slow, manifestNumber("1"), hastyPatience)
		if up.count() != 2 {
			t.Errorf("got %d questions, want 2", up.count())
		}
		up.set(func(u *clocked) { u.delay = 0 })
		time.Sleep(30*time.Second + staleHold)
		f.expectPull("1", Origin{Status: Revalidated}, manifestNumber("1"), 0)
	})
}

// Past Config.StaleFor, a request waits for upstream as if nothing were cached, and
// gets its error. The age counts from the last time that upstream confirmed the tag.
func TestRepositoryStaleFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, up := newClocked(t)
		f.config.StaleFor = time.Hour
		up.set(func(u *clocked) { u.status = http.StatusInternalServerError })
		for _, age := range []time.Duration{2 * time.Minute, time.Hour} {
			time.Sleep(age - time.Since(f.checked("1")))
			f.expectPull("1", Origin{Status: Stale, Reason: Unreachable}, manifestNumber("1"), 0)
		}
		time.Sleep(time.Second)
		_, err := f.repository("red", "team/app").ManifestByTag(t.Context(), "1", true)
		expectKind(t, err, upstream.Unavailable)
		up.set(func(u *clocked) { u.status, u.delay = 0, 10*time.Second })
		f.expectPull("1", Origin{Status: Revalidated}, manifestNumber("1"), 10*time.Second)
		up.set(func(u *clocked) { u.delay = never })
		time.Sleep(time.Minute)
		f.expectPull("1", Origin{Status: Stale, Reason: Slow}, manifestNumber("1"), 500*time.Millisecond)
		// A change of the limit takes effect during the pause after the failure.
		time.Sleep(30 * time.Second)
		f.config.StaleFor = 0
		begin := time.Now()
		_, err = f.repository("red", "team/app").ManifestByTag(t.Context(), "1", true)
		if expectKind(t, err, upstream.Timeout); time.Since(begin) < 30*time.Second {
			t.Errorf("got an error after %v, want that of upstream after 30s or more", time.Since(begin))
		}
		f.config.StaleFor = Forever
		f.expectPull("1", Origin{Status: Stale, Reason: TimedOut}, manifestNumber("1"), 0)
	})
}

// What upstream has deleted, or denies access to, is served until Config.StaleFor, and
// then it is gone. A login that upstream rejects counts as an outage does.
func TestRepositoryStaleForDeleted(t *testing.T) {
	for status, want := range map[int]struct {
		reason Reason
		kind   upstream.Kind
	}{
		http.StatusNotFound:        {NotFound, upstream.ManifestUnknown},
		http.StatusUnauthorized:    {Denied, upstream.Denied},
		http.StatusForbidden:       {Denied, upstream.Denied},
		http.StatusTooManyRequests: {RateLimited, upstream.RateLimited},
	} {
		synctest.Test(t, func(t *testing.T) {
			f, up := newClocked(t)
			f.config.StaleFor = 24 * time.Hour
			up.set(func(u *clocked) { u.status = status })
			for range 12 {
				time.Sleep(2 * time.Hour)
				f.expectPull("1", Origin{Status: Stale, Reason: want.reason}, manifestNumber("1"), 0)
			}
			time.Sleep(time.Minute)
			_, err := f.repository("red", "team/app").ManifestByTag(t.Context(), "1", true)
			expectKind(t, err, want.kind)
			up.set(func(u *clocked) { u.status = 0 })
			time.Sleep(maxStaleHold) // after 429, upstream is not asked for a while
			f.expectPull("1", Origin{Status: Revalidated}, manifestNumber("1"), 0)
		})
	}
}

// The age of a tag counts across a restart. A record without a time, of an earlier
// version, is older than any limit, and so is one of the future.
func TestRepositoryStaleForAfterRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, up := newClocked(t)
		f.config.StaleFor = time.Hour
		up.set(func(u *clocked) { u.status = http.StatusInternalServerError })
		f.restart()
		f.expectPull("1", Origin{Status: Hit}, manifestNumber("1"), 0)
		time.Sleep(time.Hour)
		f.restart()
		f.expectPull("1", Origin{Status: Stale, Reason: Unreachable}, manifestNumber("1"), 0)
		time.Sleep(time.Second)
		f.restart()
		_, err := f.repository("red", "team/app").ManifestByTag(t.Context(), "1", true)
		expectKind(t, err, upstream.Unavailable)
		for _, checked := range []time.Time{{}, time.Now().Add(time.Hour)} {
			r := f.repository("red", "team/app")
			if r.mayServe(checked) || r.isFresh(checked) {
				t.Errorf("confirmed at %v: got an answer, want none", checked)
			}
			r.config.StaleFor = Forever
			if !r.mayServe(checked) {
				t.Errorf("confirmed at %v, without a limit: got no answer, want one", checked)
			}
		}
	})
}

// A list is bounded in the same way as a tag.
func TestRepositoryTagsPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, up := newClocked(t)
		f.config.StaleFor = time.Hour
		r := f.repository("red", "team/app")
		f.config.Lists.pages.Set(listKey(r.config.Scope, "tags "), &upstream.Page{Content: []byte(`["1"]`)})
		time.Sleep(time.Hour)
		up.set(func(u *clocked) { u.delay = never })
		for _, want := range []time.Duration{500 * time.Millisecond, 0} {
			begin := time.Now()
			list, origin, err := r.Tags(t.Context(), nil)
			if took := time.Since(begin); err != nil || origin.Status != Stale || origin.Reason != Slow || took != want || string(list.Content) != `["1"]` {
				t.Errorf("got %+v after %v, error %v; want a stale list after %v", origin, took, err, want)
			}
			r = f.repository("red", "team/app", func(c *Config) { c.StaleFor = 2 * time.Hour })
		}
		r = f.repository("red", "team/app", func(c *Config) { c.StaleFor = 0 })
		if _, _, err := r.Tags(t.Context(), nil); upstream.KindOf(err) != upstream.Timeout {
			t.Errorf("without stale answers: got error %v, want that upstream did not answer", err)
		}
	})
}

func TestReasonOf(t *testing.T) {
	for kind, want := range map[upstream.Kind]Reason{
		upstream.Other: Failed, upstream.NameUnknown: NotFound, upstream.ManifestUnknown: NotFound, upstream.BlobUnknown: NotFound,
		upstream.Denied: Denied, upstream.Credentials: Login, upstream.Withheld: Login, upstream.RateLimited: RateLimited,
		upstream.Unavailable: Unreachable, upstream.Timeout: TimedOut, upstream.Invalid: Invalid, upstream.Unsupported: Invalid,
		upstream.Refused: Invalid, upstream.Loop: Invalid,
	} {
		if got := ReasonOf(&upstream.Error{Kind: kind}); got != want {
			t.Errorf("%v: got %s, want %s", kind, got, want)
		}
	}
	if got := ReasonOf(ErrTooManyQuestions); got != Busy {
		t.Errorf("got %s for too many questions, want %s", got, Busy)
	}
	if got := ReasonOf(errors.New("disk full")); got != Failed {
		t.Errorf("got %s for a full disk, want %s", got, Failed)
	}
}
