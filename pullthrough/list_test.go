package pullthrough

import (
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
	expect := func(query url.Values, content string, want Status) *List {
		t.Helper()
		list, status, err := r.Tags(t.Context(), query)
		if err != nil {
			t.Fatal(err)
		}
		if string(list.Content) != content || status != want {
			t.Errorf("got %s with status %d, want %s with status %d", list.Content, status, content, want)
		}
		return list
	}
	expect(nil, `["a","b"]`, Miss)
	expect(nil, `["a","b"]`, Hit)
	if list := expect(url.Values{"n": {"1"}}, `["a"]`, Miss); list.Next.Get("last") != "a" {
		t.Errorf("got the next page %v, want the one after a", list.Next)
	}
	f.expectCounts("a fresh list", registrytest.Counts{Tags: 2})

	f.config.Lists.FreshFor = 0
	f.up.Fail(registrytest.Failure{Status: http.StatusInternalServerError})
	expect(nil, `["a","b"]`, Stale)
	_, _, err := r.Tags(t.Context(), url.Values{"n": {"2"}})
	expectKind(t, err, upstream.Unavailable)
	f.up.Heal()
	expect(nil, `["a","b"]`, Miss)
}

func TestRepositoryReferrers(t *testing.T) {
	f := newFixture(t)
	image := f.up.PutImage("team/app", "a", random(1, 100))
	f.up.PutReferrer("team/app", image.Manifest, "application/vnd.example.sbom", []byte("{}"))
	for _, want := range []Status{Miss, Hit} {
		list, status, err := f.repository("red", "team/app").Referrers(t.Context(), image.Manifest, "")
		if err != nil || status != want || len(list.Content) == 0 {
			t.Errorf("got status %d, error %v; want a list with status %d", status, err, want)
		}
	}
	f.expectCounts("two requests", registrytest.Counts{Referrers: 1})
}

func TestTagsOf(t *testing.T) {
	for content, want := range map[string]string{
		`{"name":"x","tags":["a"]}`: `["a"]`, `{"tags":null}`: `[]`, `{}`: `[]`, `{"tags":{}}`: "", `[`: "",
	} {
		got, err := tagsOf([]byte(content))
		if string(got) != want || (err != nil) != (want == "") {
			t.Errorf("%s: got %s, error %v; want %s", content, got, err, want)
		}
	}
}

// The least recently used lists go first.
func TestListsAreBoundedInBytes(t *testing.T) {
	l := NewLists()
	add := func(key string) {
		list := &List{at: time.Now()}
		list.Content = make([]byte, maxListBytes/4)
		l.add(key, list)
	}
	for _, key := range []string{"a 1", "a 2", "b 1", "b 2"} {
		add(key)
	}
	_, _ = l.get("a 1")
	add("b 2") // a second time
	add("b 3")
	for key, want := range map[string]bool{"a 1": true, "a 2": false, "b 1": true, "b 2": true, "b 3": true} {
		if _, got := l.get(key); got != want {
			t.Errorf("%s: got known %v, want %v", key, got, want)
		}
	}
	l.ForgetScope("b")
	if _, ok := l.get("a 1"); !ok || l.bytes != maxListBytes/4 || l.known.Len() != 1 {
		t.Errorf("got %d lists of %d bytes, want a 1 alone", l.known.Len(), l.bytes)
	}
}

func TestListsForgetGroup(t *testing.T) {
	l := NewLists()
	for _, key := range []string{"acme/_/hub@1/app tags ", "acme/sub/_/hub@1/app tags ", "acme2/_/hub@1/app tags "} {
		l.add(key, &List{at: time.Now()})
	}
	l.ForgetGroup("acme")
	if got := l.known.Keys(); len(got) != 1 || got[0] != "acme2/_/hub@1/app tags " {
		t.Errorf("got %q, want the list of acme2 alone", got)
	}
}
