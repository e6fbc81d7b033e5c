package upstream

import (
	"encoding/json"
	"net/http"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

func TestRegistryReferrers(t *testing.T) {
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
					t.Errorf("type %q: got %s, %v, want %d manifests", artifactType, page.Content, err, want)
				}
				if page.MediaType != v1.MediaTypeImageIndex || page.Next != nil || (page.FiltersApplied == "artifactType") != (artifactType != "") {
					t.Errorf("type %q: got media type %s, next page %v, filters %q", artifactType, page.MediaType, page.Next, page.FiltersApplied)
				}
			}
		})
	}
}

// TestRegistryReferrersFallbackTag checks a registry without a referrers API.
func TestRegistryReferrersFallbackTag(t *testing.T) {
	r := registrytest.New(t, registrytest.WithoutReferrers())
	image := r.PutImage("a", "1", []byte("x"))
	subject := image.Manifest
	fallback := "sha256-" + subject.Encoded()
	u := client(t, r)
	wantContent := func(want, artifactType string) {
		t.Helper()
		page, err := u.Referrers(t.Context(), "a", subject, artifactType)
		if err != nil || string(page.Content) != want || page.MediaType != v1.MediaTypeImageIndex || page.FiltersApplied != "" {
			t.Errorf("got %s, media type %s, filters %q, %v, want %s", page.Content, page.MediaType, page.FiltersApplied, err, want)
		}
	}
	_, err := u.Referrers(t.Context(), "none", subject, "")
	wantKind(t, err, NameUnknown)

	wantContent(emptyReferrers, "")
	r.PutManifest("a", v1.MediaTypeImageManifest, r.RawManifest("a", subject), fallback)
	wantContent(emptyReferrers, "") // the tag is that of an image
	index := r.PutIndex("a", fallback, image)
	wantContent(string(r.RawManifest("a", index)), "test/sbom")

	// The registry answers the path with its front page.
	r.Fail(registrytest.Failure{Op: registrytest.OpReferrers, Status: 200, Header: http.Header{"Content-Type": {"text/html"}}, Body: "<html>", Times: 1})
	wantContent(string(r.RawManifest("a", index)), "")
	// A failure to fetch the tag does not mean that it does not exist.
	r.Fail(registrytest.Failure{Op: registrytest.OpManifest, Status: 503, Times: 1})
	_, err = u.Referrers(t.Context(), "a", subject, "")
	wantKind(t, err, Unavailable)
	for _, body := range []string{`{"manifests":7}`, `null`} {
		r.Fail(registrytest.Failure{Status: 200, Header: http.Header{"Content-Type": {v1.MediaTypeImageIndex}}, Body: body, Times: 1})
		_, err := u.Referrers(t.Context(), "a", subject, "")
		wantKind(t, err, Invalid)
	}
	// An endless list is an error and is not truncated.
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
		t.Errorf("got %d pages, want %d", got, maxReferrerPages)
	}
}
