package upstream

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

func TestTags(t *testing.T) {
	r := registrytest.New(t, registrytest.WithToken("", ""))
	for _, tag := range []string{"1", "2", "3"} {
		r.PutImage("a/b", tag, []byte("x"))
	}
	u := client(t, r)
	page, err := u.Tags(t.Context(), "a/b", nil)
	if err != nil || string(page.Content) != `{"name":"a/b","tags":["1","2","3"]}` || page.MediaType != "application/json" || page.Next != nil {
		t.Errorf("%+v, %v", page, err)
	}
	var asked url.Values
	r.SetFault(func(_ http.ResponseWriter, req *http.Request) bool { asked = req.URL.Query(); return false })
	page, err = u.Tags(t.Context(), "a/b", url.Values{"n": {"2", "9"}, "ns": {"docker.io"}})
	if err != nil || page.Next.Encode() != "last=2&n=2" || asked.Encode() != "n=2" {
		t.Errorf("%+v, %v, asked %v", page, err, asked)
	}
	page, err = u.Tags(t.Context(), "a/b", page.Next)
	if err != nil || page.Next != nil || !strings.Contains(string(page.Content), `["3"]`) {
		t.Errorf("%+v, %v", page, err)
	}
	_, err = u.Tags(t.Context(), "none", nil)
	wantKind(t, err, NameUnknown)
	if _, err := u.Tags(t.Context(), "A", nil); err == nil {
		t.Error("a bad name was accepted")
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
			t.Errorf("%q: %s, want %s", test.lines, got, test.want)
		}
	}
}

func TestReferrers(t *testing.T) {
	for name, options := range map[string][]registrytest.Option{"one page": nil, "pages": {registrytest.WithPageSize(2)}} {
		t.Run(name, func(t *testing.T) {
			r := registrytest.New(t, options...)
			subject := r.PutImage("a", "1", []byte("x")).Manifest
			for _, content := range []string{"1", "2", "3", "4", "5"} {
				r.PutReferrer("a", subject, "test/"+content, []byte(content))
			}
			u := client(t, r)
			for artifactType, want := range map[string]int{"": 5, "test/3": 1, "test/none": 0} {
				page, err := u.Referrers(t.Context(), "a", subject, artifactType)
				var index v1.Index
				if err != nil || json.Unmarshal(page.Content, &index) != nil || len(index.Manifests) != want || index.SchemaVersion != 2 {
					t.Errorf("%q: %s, %v", artifactType, page.Content, err)
				}
				if page.MediaType != v1.MediaTypeImageIndex || page.Next != nil || (page.FiltersApplied == "artifactType") != (artifactType != "") {
					t.Errorf("%q: %+v", artifactType, page)
				}
			}
		})
	}
}

func TestNoReferrers(t *testing.T) {
	r := registrytest.New(t, registrytest.WithoutReferrers())
	image := r.PutImage("a", "1", []byte("x"))
	subject := image.Manifest
	standIn := "sha256-" + subject.Encoded()
	u := client(t, r)
	wantContent := func(want, artifactType string) {
		t.Helper()
		page, err := u.Referrers(t.Context(), "a", subject, artifactType)
		if err != nil || string(page.Content) != want || page.MediaType != v1.MediaTypeImageIndex || page.FiltersApplied != "" {
			t.Errorf("%+v %s, %v", page, page.Content, err)
		}
	}
	_, err := u.Referrers(t.Context(), "none", subject, "")
	wantKind(t, err, NameUnknown)

	// Without an API there may be a tag that stands in for it.
	wantContent(noReferrers, "")
	r.PutManifest("a", v1.MediaTypeImageManifest, r.RawManifest("a", subject), standIn)
	wantContent(noReferrers, "") // an image that happens to be called so
	index := r.PutIndex("a", standIn, image)
	wantContent(string(r.RawManifest("a", index)), "test/sbom")

	// A front page is no API either.
	r.Fail(registrytest.Failure{Op: registrytest.OpReferrers, Status: 200, Header: http.Header{"Content-Type": {"text/html"}}, Body: "<html>", Times: 1})
	wantContent(string(r.RawManifest("a", index)), "")
	// What is wrong with the tag is not "nothing refers to it".
	r.Fail(registrytest.Failure{Op: registrytest.OpManifest, Status: 503, Times: 1})
	_, err = u.Referrers(t.Context(), "a", subject, "")
	wantKind(t, err, Unavailable)
	for _, body := range []string{`{"manifests":7}`, `null`} {
		r.Fail(registrytest.Failure{Status: 200, Header: http.Header{"Content-Type": {v1.MediaTypeImageIndex}}, Body: body, Times: 1})
		_, err := u.Referrers(t.Context(), "a", subject, "")
		wantKind(t, err, Invalid)
	}
	// A list that does not end is refused, not cut short.
	r.SetFault(func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Type", v1.MediaTypeImageIndex)
		w.Header().Set("Link", `<?x=1>; rel="next"`)
		_, _ = w.Write([]byte(`{"manifests":[]}`))
		return true
	})
	r.Reset()
	_, err = u.Referrers(t.Context(), "a", digestOf("x"), "")
	wantKind(t, err, Invalid)
	if got := r.Counts().Referrers; got != maxReferrerPages {
		t.Errorf("%d pages", got)
	}
}
