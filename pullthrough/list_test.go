package pullthrough

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream"
)

func TestRepositoryTags(t *testing.T) {
	f := newFixture(t)
	f.up.PutImage("team/app", "a", random(1, 100))
	f.up.PutImage("team/app", "b", random(1, 100))
	r := f.repository("red", "team/app")
	expect := func(query url.Values, content string, want Status) *upstream.Page {
		t.Helper()
		list, origin, err := r.Tags(t.Context(), query)
		if err != nil {
			t.Fatal(err)
		}
		if string(list.Content) != content || origin.Status != want {
			t.Errorf("got %s with status %d, want %s with status %d", list.Content, origin.Status, content, want)
		}
		return list
	}
	expect(nil, `["a","b"]`, Miss)
	expect(nil, `["a","b"]`, Hit)
	if list := expect(url.Values{"n": {"1"}}, `["a"]`, Miss); list.Next.Get("last") != "a" {
		t.Errorf("got the next page %v, want the one after a", list.Next)
	}
	f.expectCounts("a fresh list", registrytest.Counts{Tags: 2})

	f.up.Fail(registrytest.Failure{Status: http.StatusInternalServerError})
	expect(nil, `["a","b"]`, Hit)
	f.expectCounts("a fresh list while upstream fails", registrytest.Counts{})
}

// A list that is no longer fresh is served while upstream fails, whatever fails.
func TestRepositoryTagsStale(t *testing.T) {
	f := newFixture(t)
	f.config.Lists = NewLists(0)
	f.up.PutImage("team/app", "a", random(1, 100))
	r := f.repository("red", "team/app")
	expect := func(what string, want Status) {
		t.Helper()
		list, origin, err := r.Tags(t.Context(), nil)
		if err != nil || string(list.Content) != `["a"]` || origin.Status != want {
			t.Errorf("%s: got status %d, error %v; want the tag a with status %d", what, origin.Status, err, want)
		}
	}
	expect("at first", Miss)
	for _, status := range []int{http.StatusForbidden, http.StatusNotFound, http.StatusInternalServerError} {
		f.up.Heal()
		f.up.Fail(registrytest.Failure{Status: status})
		expect(http.StatusText(status), Stale)
	}
	_, _, err := r.Tags(t.Context(), url.Values{"n": {"2"}})
	expectKind(t, err, upstream.Unavailable)
	left, leave := context.WithCancel(t.Context())
	leave()
	if _, _, err := r.Tags(left, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v for a client that has left, want that of its context", err)
	}
	f.up.Heal()
	expect("afterwards", Miss)
	f.up.Fail(registrytest.Failure{Status: http.StatusTooManyRequests, Header: http.Header{"Retry-After": {"60"}}})
	expect("at the rate limit", Stale)
	f.up.Heal()
	expect("before Retry-After", Stale)
}

// A question in progress is not that of a repository with other Flights, which
// may have another registry, such as after a change of the configuration.
func TestRepositoryTagsOfTwoConfigurations(t *testing.T) {
	before, after := newFixture(t), newFixture(t)
	after.config.Lists = before.config.Lists
	after.up.PutImage("team/app", "a", random(1, 100))
	asked, release, done := make(chan struct{}), make(chan struct{}), make(chan error)
	before.up.SetFault(func(w http.ResponseWriter, _ *http.Request) bool {
		close(asked)
		<-release
		w.WriteHeader(http.StatusInternalServerError)
		return true
	})
	go func() {
		_, _, err := before.repository("red", "team/app").Tags(t.Context(), nil)
		done <- err
	}()
	<-asked
	list, origin, err := after.repository("red", "team/app").Tags(t.Context(), nil)
	if err != nil || string(list.Content) != `["a"]` || origin.Status != Miss {
		t.Errorf("got status %d, error %v; want the tag a with status %d", origin.Status, err, Miss)
	}
	close(release)
	expectKind(t, <-done, upstream.Unavailable)
}

func TestRepositoryReferrers(t *testing.T) {
	f := newFixture(t)
	image := f.up.PutImage("team/app", "a", random(1, 100))
	f.up.PutReferrer("team/app", image.Manifest, "application/vnd.example.sbom", []byte("{}"))
	for _, want := range []Status{Miss, Hit} {
		list, origin, err := f.repository("red", "team/app").Referrers(t.Context(), image.Manifest, "")
		if err != nil || origin.Status != want || len(list.Content) == 0 {
			t.Errorf("got status %d, error %v; want a list with status %d", origin.Status, err, want)
		}
	}
	f.expectCounts("two requests", registrytest.Counts{Referrers: 1})
}

// The least recently used lists go first.
func TestListsAreBoundedInBytes(t *testing.T) {
	l := NewLists(time.Hour)
	add := func(key string) {
		l.pages.Set(key, &upstream.Page{Content: make([]byte, maxListBytes/4)})
	}
	expect := func(want map[string]bool) {
		t.Helper()
		for key, want := range want {
			if _, got := l.pages.Peek(key); got != want {
				t.Errorf("%s: got known %v, want %v", key, got, want)
			}
		}
	}
	for _, key := range []string{"a 1", "a 2", "b 1", "b 2"} {
		add(key)
	}
	_, _ = l.pages.Peek("a 1")
	add("b 2") // a second time
	add("b 3")
	expect(map[string]bool{"a 1": true, "a 2": false, "b 1": true, "b 2": true, "b 3": true})
	l.ForgetScope("b")
	expect(map[string]bool{"a 1": true, "b 1": false, "b 2": false, "b 3": false})
	for _, key := range []string{"c 1", "c 2", "c 3"} {
		add(key)
	}
	expect(map[string]bool{"a 1": true, "c 1": true, "c 2": true, "c 3": true})
}

func TestListsForgetGroup(t *testing.T) {
	l := NewLists(time.Hour)
	for key, want := range map[string]bool{
		"acme/_/hub@1/app tags ": false, "acme/sub/_/hub@1/app tags ": false, "acme2/_/hub@1/app tags ": true,
	} {
		l.pages.Set(key, new(upstream.Page))
		l.ForgetGroup("acme")
		if _, got := l.pages.Peek(key); got != want {
			t.Errorf("%s: got known %v, want %v", key, got, want)
		}
	}
}
