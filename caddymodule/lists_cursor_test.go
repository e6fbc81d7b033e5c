package caddymodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// nextTags returns the tags of a page and the path of the next one, whose cursor
// differs each time.
func nextTags(s *sitetest.Site, path string, who sitetest.RequestOption) (tags []string, next string) {
	s.T.Helper()
	a := s.Get(path, who).Expect(s.T, http.StatusOK, "")
	var page tagList
	if err := json.Unmarshal(a.Data, &page); err != nil {
		s.T.Fatal(err)
	}
	link := a.Header.Get("Link")
	if strings.Contains(link, registrytest.CursorPrefix) || strings.Contains(link, "page=") {
		s.T.Errorf("got the link %q, want none of the registry's own parameters in it", link)
	}
	return page.Tags, strings.TrimSuffix(strings.TrimPrefix(link, "<"), `>; rel="next"`)
}

// TestServeTagsCursor pages through a registry that names pages by a parameter of its
// own. The cursor is good for one account and one repository, also after a restart, and
// clients cannot choose the registry's parameter.
func TestServeTagsCursor(t *testing.T) {
	up := registrytest.New(t, registrytest.WithCursors())
	for _, tag := range []string{"1", "2", "3", "4", "5"} {
		up.PutImage("library/alpine", tag, []byte(tag))
		up.PutImage("library/other", tag, []byte(tag))
	}
	config := []string{sitetest.Users("alice", "bob"), sitetest.Private("acme", "alice", "bob"), sitetest.Private("beta", "alice"), sitetest.Hub(up)}
	s := sitetest.NewSite(t)
	s.AddSecrets(registrytest.CursorPrefix+"Mg", registrytest.CursorPrefix+"NA") // after the tags 2 and 4
	s.Load(config...)
	path := "/v2/acme" + infix + "alpine/tags/list?n=2"
	first, second := nextTags(s, path, sitetest.As("alice"))
	var third string
	tags := first
	for next := second; next != ""; {
		var page []string
		page, next = nextTags(s, next, sitetest.As("alice"))
		if tags = append(tags, page...); third == "" {
			third = next
		}
	}
	if want := []string{"1", "2", "3", "4", "5"}; !slices.Equal(tags, want) {
		t.Errorf("got %q, want %q", tags, want)
	}
	cursor := second[strings.Index(second, "?"):]
	refused := func(path string, who sitetest.RequestOption) {
		t.Helper()
		s.Get(path, who).Expect(t, http.StatusBadRequest, "UNSUPPORTED").Has(t, "Link", "")
	}
	refused(second, sitetest.As("bob"))
	refused("/v2/acme"+infix+"other/tags/list"+cursor, sitetest.As("alice"))
	refused("/v2/beta"+infix+"alpine/tags/list"+cursor, sitetest.As("alice"))
	refused(second+"A", sitetest.As("alice"))
	for _, chosen := range []string{"x", "page%3D2", registrytest.CursorPrefix} {
		refused("/v2/acme"+infix+"alpine/tags/list?cursor="+chosen, sitetest.As("alice"))
	}
	own := "&page=" + registrytest.CursorPrefix + "Mw&address=x&token=y"
	if tags, _ := nextTags(s, path+own, sitetest.As("alice")); !slices.Equal(tags, first) {
		t.Errorf("got %q for parameters of the client's, want the first page %q", tags, first)
	}
	if tags, _ := nextTags(s, second+own+"&n=1&last=5", sitetest.As("alice")); !slices.Equal(tags, []string{"3", "4"}) {
		t.Errorf("got %q for a cursor with more parameters, want the second page", tags)
	}
	s.Restart(config...)
	if tags, _ := nextTags(s, third, sitetest.As("alice")); !slices.Equal(tags, []string{"5"}) {
		t.Errorf("got %q after a restart, want the third page", tags)
	}
}

// TestServeTagsCursorOfMirror checks that a cursor stays with the address of an
// upstream that has issued it, and the next page with the upstream that ns names.
func TestServeTagsCursorOfMirror(t *testing.T) {
	first := registrytest.New(t)
	second := registrytest.New(t, registrytest.WithCursors())
	for _, tag := range []string{"1", "2", "3"} {
		second.PutImage("acme/app", tag, []byte(tag))
	}
	first.Fail(registrytest.Failure{Status: http.StatusServiceUnavailable})
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(registrytest.New(t)), sitetest.UpstreamAt("ghcr.io", first.URL()+" "+second.URL()))
	tags, next := nextTags(s, "/v2/acme"+infix+"acme/app/tags/list?n=2&ns=ghcr.io", sitetest.As("alice"))
	if query, err := url.ParseQuery(next[strings.Index(next, "?")+1:]); err != nil || query.Get("ns") != "ghcr.io" || len(query) != 2 {
		t.Errorf("got the next page %q, want one with a cursor and ns", next)
	}
	first.Heal()
	more, end := nextTags(s, next, sitetest.As("alice"))
	if got := append(tags, more...); !slices.Equal(got, []string{"1", "2", "3"}) || end != "" {
		t.Errorf("got %q and the next page %q, want three tags", got, end)
	}
}

// TestServeTagsRefused checks that the code of a refusal is relayed with the proxy's
// own text, and that the registry's reaches the log only.
func TestServeTagsRefused(t *testing.T) {
	up := registrytest.New(t, registrytest.WithMaxPage(100))
	up.PutImage("library/alpine", "1", []byte("x"))
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	path := "/v2/acme" + infix + "alpine/tags/list"
	if tags, n := allTags(s, path+"?n=1000", sitetest.As("alice")); len(tags) != 1 || n != 1 {
		t.Errorf("got %q in %d pages, want one tag", tags, n)
	}
	for i, test := range []struct {
		status   int
		code     string
		want     int
		wantCode string
	}{
		{400, "PAGINATION_NUMBER_INVALID", 400, "PAGINATION_NUMBER_INVALID"},
		{400, "NAME_INVALID", 400, "NAME_INVALID"},
		{400, "UNSUPPORTED", 400, "UNSUPPORTED"},
		{404, "UNSUPPORTED", 404, "UNSUPPORTED"},
		{404, "NAME_UNKNOWN", 404, "NAME_UNKNOWN"},
		{404, "MANIFEST_UNKNOWN", 404, "MANIFEST_UNKNOWN"},
		{404, "SOMETHING_ELSE", 404, "NAME_UNKNOWN"},
		{400, "UNAUTHORIZED", 404, "NAME_UNKNOWN"},
		{400, "SOMETHING_ELSE", 502, "UNAVAILABLE"},
		{400, "<script>", 502, "UNAVAILABLE"},
	} {
		up.Heal()
		up.Fail(registrytest.Failure{Op: registrytest.OpTags, Status: test.status,
			Body: fmt.Sprintf(`{"errors":[{"code":%q,"message":"reason %d\nof <b>the registry</b>, see https://up.example/?sig=secret"}]}`, test.code, i)})
		a := s.Get(fmt.Sprintf("%s?n=%d", path, i+2), sitetest.As("alice")).Expect(t, test.want, test.wantCode)
		if text := string(a.Data); strings.Contains(text, "reason") || strings.Contains(text, "the registry<") || strings.Contains(text, "script") {
			t.Errorf("%s: got %s, want none of the registry's text", test.code, text)
		}
		if want := fmt.Sprintf(`"upstream_message":"reason %d of <b>the registry</b>, see *****"`, i); !strings.Contains(s.Logs(), want) {
			t.Errorf("%s: the log lacks %s", test.code, want)
		}
	}
}

// TestServeTagsCut checks that the log tells that a registry's next page cannot be
// asked for.
func TestServeTagsCut(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "1", []byte("x"))
	up.SetFault(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Link", `<https://elsewhere.example/v2/library/alpine/tags/list?page=2>; rel="next"`)
		return false
	})
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	for range 2 {
		s.Get("/v2/acme"+infix+"alpine/tags/list", sitetest.As("alice")).Expect(t, http.StatusOK, "").Has(t, "Link", "")
	}
	if n := strings.Count(s.Logs(), "a list of tags is incomplete"); n != 1 || strings.Contains(s.Logs(), "elsewhere.example") {
		t.Errorf("got %d lines about the list, want one without the address", n)
	}
}

// TestServeTagsHuge checks that a list of nearly 32 MiB is asked for once and is in
// memory once, however many clients receive it.
func TestServeTagsHuge(t *testing.T) {
	const clients, most = 50, 100 << 20
	up := registrytest.New(t)
	thousand := []byte(strings.Repeat(`,"`+strings.Repeat("t", 100)+`"`, 1000))
	up.SetFault(func(w http.ResponseWriter, _ *http.Request) bool {
		_, _ = w.Write([]byte(`{"tags":["0"`))
		for range 300 {
			_, _ = w.Write(thousand)
		}
		_, _ = w.Write([]byte(`]}`))
		return true
	})
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	token, path := s.Token("alice"), "/v2/acme"+infix+"large/tags/list"
	before := heapInUse()
	done := openUnread(s, clients, path, sitetest.Bearer(token))
	if grown := heapInUse() - before; grown > most {
		t.Errorf("got a heap that is %d MiB larger, want %d at most", grown>>20, most>>20)
	}
	done()
	if n := len(s.Get(path, sitetest.Bearer(token)).Expect(t, http.StatusOK, "").Data); n < 30_000_000 {
		t.Errorf("got %d bytes, want 30 MB", n)
	}
	if n := up.Counts().Tags; n != 1 {
		t.Errorf("got %d requests, want 1", n)
	}
}
