package upstream

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
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

// TestRegistryReferrersUnsupported checks that the statuses with which registries
// refuse the path of the referrers API lead to the referrers tag.
func TestRegistryReferrersUnsupported(t *testing.T) {
	for _, test := range []struct {
		status int
		code   string
		kind   Kind // Other if the tag is tried
	}{
		{400, "", Other}, {400, "UNSUPPORTED", Other}, {400, "NAME_INVALID", Other},
		{404, "", Other}, {404, "NAME_UNKNOWN", Other}, {405, "UNSUPPORTED", Other}, {406, "", Other}, {410, "", Other}, {501, "", Other},
		{400, "TOOMANYREQUESTS", RateLimited}, {403, "DENIED", Denied}, {429, "", RateLimited}, {500, "", Unavailable}, {503, "", Unavailable},
	} {
		r := registrytest.New(t)
		image := r.PutImage("a", "1", []byte("x"))
		index := r.PutIndex("a", "sha256-"+image.Manifest.Encoded(), image)
		body := ""
		if test.code != "" {
			body = `{"errors":[{"code":"` + test.code + `"}]}`
		}
		r.Fail(registrytest.Failure{Op: registrytest.OpReferrers, Status: test.status, Body: body})
		page, err := client(t, r).Referrers(t.Context(), "a", image.Manifest, "")
		if test.kind != Other {
			wantKind(t, err, test.kind)
		} else if err != nil || string(page.Content) != string(r.RawManifest("a", index)) {
			t.Errorf("status %d %s: got %s, %v, want the content of the referrers tag", test.status, test.code, page.Content, err)
		}
	}
}

// TestRegistryReferrersLaterPage checks that a later page that fails does not lead to
// the referrers tag, which would hide the referrers of the first page.
func TestRegistryReferrersLaterPage(t *testing.T) {
	for _, status := range []int{400, 404, 501} {
		r := registrytest.New(t, registrytest.WithPageSize(1))
		subject := r.PutImage("a", "1", []byte("x")).Manifest
		r.PutReferrer("a", subject, "test/1", []byte("1"))
		r.PutReferrer("a", subject, "test/2", []byte("2"))
		r.SetFault(func(w http.ResponseWriter, req *http.Request) bool {
			if !req.URL.Query().Has("from") {
				return false
			}
			w.WriteHeader(status)
			return true
		})
		_, err := client(t, r).Referrers(t.Context(), "a", subject, "")
		wantKind(t, err, Invalid)
		if n := r.Counts().ManifestGet; n != 0 {
			t.Errorf("status %d: got %d requests for the tag, want 0", status, n)
		}
	}
}

// TestRegistryReferrersOfSubject checks registries that read the referrers tag as the
// digest of the subject: the platforms of an index are not its referrers.
func TestRegistryReferrersOfSubject(t *testing.T) {
	r := registrytest.New(t, registrytest.WithoutReferrers(), registrytest.WithTagsAsDigests())
	index := r.PutIndex("a", "1", r.PutImage("a", "", []byte("x")), r.PutImage("a", "", []byte("y")))
	raw := r.RawManifest("a", index)
	long := digest.SHA512.FromBytes(raw)
	r.PutManifestAs("a", long, v1.MediaTypeImageIndex, raw, "sha512-"+long.Encoded()[:64])
	for _, subject := range []digest.Digest{index, long} {
		page, err := client(t, r).Referrers(t.Context(), "a", subject, "")
		if err != nil || string(page.Content) != emptyReferrers {
			t.Errorf("%s: got %s, %v, want an empty index", subject, page.Content, err)
		}
	}
}

// TestReferrersTag checks that the tag has the limits of the specification.
func TestReferrersTag(t *testing.T) {
	hex := strings.Repeat("0123456789abcdef", 8)
	for d, want := range map[digest.Digest]string{
		digest.Digest("sha256:" + hex[:64]): "sha256-" + hex[:64],
		digest.Digest("sha512:" + hex):      "sha512-" + hex[:64],
	} {
		if got := referrersTag(d); got != want {
			t.Errorf("%s: got the tag %s, want %s", d, got, want)
		}
	}
}
