package upstream

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

func TestRegistryTags(t *testing.T) {
	r := registrytest.New(t, registrytest.WithToken("", ""))
	for _, tag := range []string{"1", "2", "3"} {
		r.PutImage("a/b", tag, []byte("x"))
	}
	u := client(t, r)
	page, err := u.Tags(t.Context(), "a/b", nil)
	if err != nil || string(page.Content) != `{"name":"a/b","tags":["1","2","3"]}` || page.MediaType != "application/json" || page.Next != nil {
		t.Errorf("got %s, %+v, %v, want all tags on one page", page.Content, page, err)
	}
	var asked url.Values
	r.SetFault(func(_ http.ResponseWriter, req *http.Request) bool { asked = req.URL.Query(); return false })
	page, err = u.Tags(t.Context(), "a/b", url.Values{"n": {"2", "9"}, "ns": {"docker.io"}})
	if err != nil || page.Next.Encode() != "last=2&n=2" || asked.Encode() != "n=2" {
		t.Errorf("first page: got %+v, %v after query %v, want next page last=2&n=2 after n=2", page, err, asked)
	}
	page, err = u.Tags(t.Context(), "a/b", page.Next)
	if err != nil || page.Next != nil || !strings.Contains(string(page.Content), `["3"]`) {
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

func TestNextLink(t *testing.T) {
	for _, test := range []struct {
		lines []string
		want  string
	}{
		{nil, ""},
		{[]string{`</v2/a/tags/list?last=b&n=2>; rel="next"`}, "last=b&n=2"},
		{[]string{`<https://elsewhere.example/x?n=2&last=c>;title="x";Rel=NEXT`}, "last=c&n=2"},
		{[]string{`</x?n=1>; rel="prev", </y?n=2>; rel="next"`}, "n=2"},
		{[]string{`</x?n=1>; rel="prev"`, `</y?n=3>; rel="next"`}, "n=3"},
		{[]string{`</x?last=a,b>; rel="next"`}, "last=a%2Cb"},
		{[]string{`</x?n=1>`, `</x`, `x>; rel="next"`, `<%zz?n=1>; rel="next"`, ``}, ""},
	} {
		if got := nextLink(http.Header{"Link": test.lines}).Encode(); got != test.want {
			t.Errorf("nextLink(%q) = %s, want %s", test.lines, got, test.want)
		}
	}
}
