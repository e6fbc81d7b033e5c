package upstream

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
	"github.com/dependencyproxy/caddy-dependency-proxy/upstream/auth"
)

func TestRegistryTags(t *testing.T) {
	r := registrytest.New(t, registrytest.WithToken("", ""))
	for _, tag := range []string{"1", "2", "3"} {
		r.PutImage("a/b", tag, []byte("x"))
	}
	u := client(t, r)
	page, err := u.Tags(t.Context(), "a/b", nil)
	if err != nil || string(page.Content) != `["1","2","3"]` || page.MediaType != "application/json" || page.Next != nil {
		t.Errorf("got %s, %+v, %v, want all tags on one page", page.Content, page, err)
	}
	var asked url.Values
	r.SetFault(func(_ http.ResponseWriter, req *http.Request) bool { asked = req.URL.Query(); return false })
	page, err = u.Tags(t.Context(), "a/b", url.Values{"n": {"2", "9"}, "ns": {"docker.io"}})
	if err != nil || page.Next.Encode() != "last=2&n=2" || asked.Encode() != "n=2" {
		t.Errorf("first page: got %+v, %v after query %v, want next page last=2&n=2 after n=2", page, err, asked)
	}
	page, err = u.Tags(t.Context(), "a/b", page.Next)
	if err != nil || page.Next != nil || string(page.Content) != `["3"]` {
		t.Errorf("last page: got %s, %+v, %v, want tag 3 and no next page", page.Content, page, err)
	}
	_, err = u.Tags(t.Context(), "none", nil)
	wantKind(t, err, NameUnknown)
	if _, err := u.Tags(t.Context(), "A", nil); err == nil {
		t.Error("invalid repository name: got no error")
	}
	r.Fail(registrytest.Failure{Op: registrytest.OpTags, Status: 200, Body: "<html>"})
	_, err = u.Tags(t.Context(), "a/b", nil)
	wantKind(t, err, Invalid)
}

// TestRegistryTagsCursor pages through a registry that names pages by a parameter of
// its own, which only the registry itself may choose.
func TestRegistryTagsCursor(t *testing.T) {
	r := registrytest.New(t, registrytest.WithCursors())
	for _, tag := range []string{"1", "2", "3"} {
		r.PutImage("a", tag, []byte("x"))
	}
	u := client(t, r)
	var pages []string
	for next := (url.Values{"n": {"1"}, "page": {"foreign"}}); next != nil; {
		page, err := u.Tags(t.Context(), "a", next)
		if err != nil || page.Cut != "" || len(pages) > 3 {
			t.Fatalf("got %+v, %v after %q", page, err, pages)
		}
		pages = append(pages, string(page.Content))
		next = page.Next
	}
	if got, want := strings.Join(pages, " "), `["1"] ["2"] ["3"]`; got != want {
		t.Errorf("got the pages %s, want %s", got, want)
	}
}

// TestNextPage checks which links to a next page are followed.
func TestNextPage(t *testing.T) {
	const address = "https://registry.example/prefix/v2/a/tags/list?n=2"
	for _, test := range []struct {
		link, want string
		cut        bool
	}{
		{"/prefix/v2/a/tags/list?n=2&last=b", "last=b&n=2", false},
		{"?last=b", "last=b", false},
		{"?next_page=x%3D", "next_page=x%3D", false},
		{"?page=2&b=%2f", "cursor=page%3D2%26b%3D%252f", false},
		{"?a;b", "cursor=a%3Bb", false},
		{"http://registry.example:80/prefix/v2/a/tags/list?page=2", "", true},
		{"http://REGISTRY.example:443/prefix/v2/a/tags/list?page=2", "cursor=page%3D2", false},
		{"?last=b&token=1", "cursor=last%3Db%26token%3D1", false},
		// Of a link to another address only the parameters of the specification count.
		{"https://elsewhere.example/x?last=b&token=1", "last=b", false},
		{"https://elsewhere.example/prefix/v2/a/tags/list?page=2", "", true},
		{"/v2/a/tags/list?page=2", "", true},
		{"/prefix/v2/a/tags/list/../list?page=2", "cursor=page%3D2", false},
		{"?n=3", "", true},
		{"?n=2", "", false}, // the same page again
		{"", "", false},
		{"?page=" + strings.Repeat("x", maxCursor), "", true},
		{"?page=a b", "", true},
		{"?page=\xff", "", true},
	} {
		base, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		header := http.Header{"Link": {"<" + test.link + `>; rel="next"`}}
		resp := &response{&http.Response{Header: header}, newTrail(base)}
		next, cut := nextPage(resp, base)
		if next.Encode() != test.want || (cut != "") != test.cut {
			t.Errorf("%s: got %s, cut %q; want %s, cut %v", test.link, next.Encode(), cut, test.want, test.cut)
		}
		resp.foreign = true
		if next, _ := nextPage(resp, base); next.Has(CursorParameter) {
			t.Errorf("%s: got %s from a server to which the registry redirects, want no cursor", test.link, next.Encode())
		}
	}
}

// TestRegistryTagsFewer checks that a registry that refuses the number of tags is
// asked once for fewer, and what the error says if that does not help.
func TestRegistryTagsFewer(t *testing.T) {
	const most = 100
	r := registrytest.New(t, registrytest.WithMaxPage(most))
	for i := range most + 1 {
		r.PutImage("a", fmt.Sprint(1000+i), []byte("x"))
	}
	u := client(t, r)
	page, err := u.Tags(t.Context(), "a", url.Values{"n": {"1001"}})
	if err != nil || strings.Count(string(page.Content), ",") != most-1 || page.Next.Encode() != "last=1099&n=100" {
		t.Errorf("got %+v, %v, want %d tags and a next page", page, err, most)
	}
	if n := r.Counts().Tags; n != 2 {
		t.Errorf("got %d requests, want 2", n)
	}
	refusal := func(status int, code, message string) {
		body, _ := json.Marshal(map[string]any{"errors": []any{map[string]string{"code": code, "message": message}}})
		r.Heal()
		r.Reset()
		r.Fail(registrytest.Failure{Op: registrytest.OpTags, Status: status, Body: string(body)})
	}
	for _, test := range []struct {
		status   int
		code     string
		kind     Kind
		n        string
		requests int
	}{
		{400, "PAGINATION_NUMBER_INVALID", Refused, "1000", 2},
		{400, "PAGINATION_NUMBER_INVALID", Refused, "1", 1},
		{400, "UNSUPPORTED", Refused, "", 1},
		{400, "NAME_INVALID", Refused, "", 1},
		{404, "UNSUPPORTED", Refused, "9", 1},
		{404, "NAME_UNKNOWN", NameUnknown, "9", 1},
		{404, "", NameUnknown, "9", 1},
		{400, "DENIED", Denied, "9", 1},
		{400, "TOOMANYREQUESTS", RateLimited, "9", 1},
		{400, "SOMETHING_ELSE", Invalid, "9", 2},
		{413, "", Invalid, "9", 2},
		{500, "UNSUPPORTED", Unavailable, "9", 1},
	} {
		refusal(test.status, test.code, "number\x1b[31m too large: 'token-that-must-not-leak'")
		_, err := u.Tags(t.Context(), "a", url.Values{"n": {test.n}})
		e := wantKind(t, err, test.kind)
		if e.Code != test.code || r.Counts().Tags != test.requests {
			t.Errorf("%d %s: got code %q after %d requests, want %d", test.status, test.code, e.Code, r.Counts().Tags, test.requests)
		}
		if want := "number [31m too large: 'token-that-must-not-leak'"; e.Detail != want {
			t.Errorf("got detail %q, want %q", e.Detail, want)
		}
	}
}

// TestLoggable checks that the message of a registry reaches the log without
// secrets, and bounded.
func TestLoggable(t *testing.T) {
	request := func(authorization string) *http.Request {
		return &http.Request{Header: http.Header{"Authorization": {authorization}}}
	}
	login := base64.StdEncoding.EncodeToString([]byte("robot:pass word"))
	for _, test := range []struct{ message, authorization, want string }{
		{"n is too large", "", "n is too large"},
		{"line\r\n\x00 two\u202e \xff", "", "line two"},
		{"got Bearer abc.def for x", "Bearer abc.def", "got Bearer ***** for x"},
		{"got " + login + " of robot with pass word", "Basic " + login, "got ***** of robot with *****"},
		{"see https://x.example/?sig=1 or " + strings.Repeat("x", 41), "", "see ***** or *****"},
		{strings.Repeat("é ", 200), "", strings.Repeat("é ", 66) + "é"},
	} {
		if got := loggable(test.message, request(test.authorization)); got != strings.TrimSpace(test.want) && got != test.want {
			t.Errorf("got %q, want %q", got, test.want)
		}
	}
	if got := loggable("n is too large", nil); got != "" {
		t.Errorf("got %q for an unknown request, want nothing", got)
	}
}

// TestRegistryMasksLogin checks that a message in which a token service repeats the
// login that it was sent in a form does not reach the log with it.
func TestRegistryMasksLogin(t *testing.T) {
	const odd = `pa+ss "w%rd&`
	for _, user := range []string{testUser, auth.IdentityUser} {
		r := registrytest.New(t, registrytest.WithToken("", ""))
		r.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
			if req.URL.Path != "/token" {
				return false
			}
			if req.PostFormValue("scope") == "" { // the login itself is accepted
				return true
			}
			body, _ := json.Marshal(map[string]any{"errors": []any{map[string]string{
				"code": "DENIED", "message": "wrong " + odd + " or " + url.QueryEscape(odd)}}})
			w.WriteHeader(http.StatusForbidden)
			_, _ = w.Write(body)
			return true
		})
		u := client(t, r, func(c *Config) { c.Login = auth.StaticLogin(user, odd) })
		u.postRealms.Add(r.URL()+"/token", struct{}{})
		_, err := u.Manifest(t.Context(), "a", "1")
		if e := wantKind(t, err, Denied); e.Detail != "wrong ***** or *****" {
			t.Errorf("%s: got detail %q, want no password in it", user, e.Detail)
		}
	}
}

func TestTagArray(t *testing.T) {
	for content, want := range map[string]string{
		`{"name":"x","tags":["a"]}`: `["a"]`, `{"tags":null}`: `[]`, `{}`: `[]`, ` { "Tags" : [ "a" , "b" ] , "x":{"tags":[1,{}]}} `: `[ "a" , "b" ]`,
		`{"tags":{}}`: "", `[`: "", `{"tags":["a"]`: "", `{"tags":["a",1]}`: "", `{"tags":["a"]}x`: "", `{"tags":["a"]}{}`: "",
		`<html>`: "", ``: "", `null`: "", "{\"tags\":[\"\xff\"]}": "", `{"tags":[["a"]]}`: "", `{"tags":["a" "b"]}`: "",
	} {
		got, err := tagArray([]byte(content))
		if string(got) != want || (err != nil) != (want == "") {
			t.Errorf("%s: got %s, error %v; want %s", content, got, err, want)
		}
	}
	// What is not part of the array does not stay in memory.
	got, err := tagArray([]byte(`{"pad":"` + strings.Repeat("x", 1<<20) + `","tags":["a"]}`))
	if err != nil || string(got) != `["a"]` || cap(got) > maxSlack+len(got) {
		t.Errorf("got %s with %d bytes of memory, %v", got, cap(got), err)
	}
}

// TestMirrorsTagsCursorOfFormerAddress checks that a cursor of an address that the
// upstream no longer has is refused, also if only one address is left.
func TestMirrorsTagsCursorOfFormerAddress(t *testing.T) {
	former, left := registrytest.New(t, registrytest.WithCursors()), registrytest.New(t, registrytest.WithCursors())
	for _, tag := range []string{"1", "2"} {
		former.PutImage("a", tag, []byte("x"))
		left.PutImage("a", tag, []byte("x"))
	}
	page, err := NewMirrors(client(t, former), client(t, left)).Tags(t.Context(), "a", url.Values{"n": {"1"}})
	if err != nil || !page.Next.Has(CursorParameter) || !page.Next.Has(AddressParameter) {
		t.Fatalf("got %+v, %v, want a cursor with its address", page, err)
	}
	_, err = NewMirrors(client(t, left)).Tags(t.Context(), "a", page.Next)
	wantKind(t, err, Invalid)
	if n := left.Counts().Tags; n != 0 {
		t.Errorf("got %d requests to the other address, want 0", n)
	}
}
