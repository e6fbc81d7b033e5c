package header

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestNextLink(t *testing.T) {
	base, err := url.Parse("https://registry.example/v2/a/tags/list?n=1")
	if err != nil {
		t.Fatal(err)
	}
	const list = "https://registry.example/v2/a/tags/list"
	for _, test := range []struct {
		lines []string
		want  string
	}{
		{nil, ""},
		{[]string{`</v2/a/tags/list?last=b&n=2>; rel="next"`}, list + "?last=b&n=2"},
		{[]string{`<?n=2>; rel=next`}, list + "?n=2"},
		{[]string{`<https://elsewhere.example/x?n=2&last=c>;title="x";Rel=NEXT`}, "https://elsewhere.example/x?n=2&last=c"},
		{[]string{`</x?n=1>; rel="prev", </y?n=2>; rel="next"`}, "https://registry.example/y?n=2"},
		{[]string{`</x?n=1>; rel="prev"`, `</y?n=3>; rel="next"`}, "https://registry.example/y?n=3"},
		{[]string{`</x?last=a,b>; rel="next"`}, "https://registry.example/x?last=a,b"},
		{[]string{`<?n=2>; rel="start next"`}, list + "?n=2"},
		{[]string{`<?n=1>; title="a, <?n=8>; rel=next"; rel="prev", <?n=2>; rel="next"`}, list + "?n=2"},
		{[]string{`<?n=1>; title="\", <?n=8>; rel=next"; rel=prev`}, ""},
		{[]string{`, ,<?n=2> ; ; rel = "next" ,`}, list + "?n=2"},
		{[]string{`<?n=1>; rel=prev; rel=next`}, ""}, // the first rel counts
		{[]string{`<?n=1>; rel="nextpage"`, `<?n=1>; rel*=next`, `<?n=1>; rel="next`}, ""},
		{[]string{`</x?n=1>`, `</x`, `x>; rel="next"`, `<%zz?n=1>; rel="next"`, `<?n=1> x; rel="next"`, ``}, ""},
	} {
		got := ""
		if target := NextLink(http.Header{"Link": test.lines}, base); target != nil {
			got = target.String()
		}
		if got != test.want {
			t.Errorf("NextLink(%q) = %s, want %s", test.lines, got, test.want)
		}
	}
}

// FuzzParseLinks checks that links are found in any text, that a link that is written
// again is parsed alike, and that text in a quoted parameter is never a link.
func FuzzParseLinks(f *testing.F) {
	for _, seed := range []string{
		`</v2/a/tags/list?last=b&n=2>; rel="next"`, `<?page=2>;rel=next,<?page=0>;rel="prev first"`,
		`<?n=1>; title="a, <?n=8>; rel=next"; rel="prev"`, `<a>;rel="\"";x`, `<>;;rel`, `< a >`, `,<a>,,<b>`, `<a`, `"<a>"`, `<a>;="`,
		`<https://user:password@host:99999/%zz>; rel="next"`, "<\x00\xff>; rel=\"next\"",
	} {
		f.Add(seed)
	}
	base, err := url.Parse("https://registry.example/v2/a/tags/list?n=1")
	if err != nil {
		f.Fatal(err)
	}
	quote := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
	f.Fuzz(func(t *testing.T, value string) {
		links := parseLinks(value)
		if most := strings.Count(value, "<"); len(links) > most {
			t.Fatalf("%q: got %d links, want at most %d", value, len(links), most)
		}
		for _, l := range links {
			if strings.Contains(l.target, ">") || !strings.Contains(value, l.target) {
				t.Fatalf("%q: got the target %q, which is not in it", value, l.target)
			}
			again := parseLinks("<" + l.target + `>; rel="` + quote.Replace(l.rel) + `"`)
			if len(again) != 1 || again[0] != l {
				t.Fatalf("%q: got %+v, and %+v again", value, l, again)
			}
		}
		quoted := parseLinks(`<first>; title="` + quote.Replace(value) + `"; rel="prev", <last>; rel="next"`)
		if len(quoted) != 2 || quoted[0] != (link{"first", "prev"}) || quoted[1] != (link{"last", "next"}) {
			t.Fatalf("%q in quotes: got %+v", value, quoted)
		}
		if target := NextLink(http.Header{"Link": {value}}, base); target != nil && target.Scheme == "" {
			t.Fatalf("%q: got %q, want an absolute address", value, target)
		}
	})
}
