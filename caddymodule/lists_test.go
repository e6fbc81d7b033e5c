package caddymodule

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

type tagList struct {
	Name string   `json:"name"`
	Tags []string `json:"tags"`
}

// tagPage returns a page of tags and the path of the next page, if any.
func tagPage(s *sitetest.Site, path string, who sitetest.RequestOption) (page tagList, next string) {
	s.T.Helper()
	a := s.Get(path, who).Expect(s.T, http.StatusOK, "").Has(s.T, "Content-Type", "application/json").Has(s.T, "Cache-Control", "no-transform")
	if err := json.Unmarshal(a.Data, &page); err != nil {
		s.T.Fatal(err)
	}
	sitetest.SameHeaders(s.T, s.Get(path, who), s.Head(path, who))
	link := a.Header.Get("Link")
	if link == "" {
		return page, ""
	}
	next, ok := strings.CutSuffix(strings.TrimPrefix(link, "<"), `>; rel="next"`)
	if !ok || !strings.HasPrefix(next, "/v2/"+page.Name+"/tags/list?") {
		s.T.Fatalf("got the link %q, want one to the next page of the same list", link)
	}
	return page, next
}

// allTags returns the tags of all pages of a list and the number of pages.
func allTags(s *sitetest.Site, path string, who sitetest.RequestOption) (tags []string, pages int) {
	s.T.Helper()
	for path != "" && pages < 20 {
		var page tagList
		page, path = tagPage(s, path, who)
		tags = append(tags, page.Tags...)
		pages++
	}
	return tags, pages
}

// TestServeTags checks that upstream's list is served under the client's name
// for the repository, page by page.
func TestServeTags(t *testing.T) {
	up := registrytest.New(t)
	for _, tag := range []string{"a", "B", "c", "d", "3.20"} {
		up.PutImage("library/alpine", tag, []byte(tag))
	}
	want := []string{"3.20", "B", "a", "c", "d"}
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme/sub", "alice"), sitetest.Hub(up))
	path := "/v2/acme/sub" + directory.Infix + "alpine/tags/list"
	page, next := tagPage(s, path, sitetest.As("alice"))
	if page.Name != "acme/sub"+directory.Infix+"alpine" || !slices.Equal(page.Tags, want) || next != "" {
		t.Errorf("got %+v and the next page %q, want %q and none", page, next, want)
	}
	s.Get(path, sitetest.As("alice")).Has(t, "Cache-Status", "dependency-proxy; hit")
	if counts := up.Counts(); counts.Tags != 1 {
		t.Errorf("got requests %+v, want one for the tags", counts)
	}
	for query, pages := range map[string]int{"?n=2": 3, "?n=1": 5, "?n=5": 1, "?n=100": 1, "?n=2&x=y&ns=docker.io": 3, "?n=&last=": 1} {
		if tags, n := allTags(s, path+query, sitetest.As("alice")); !slices.Equal(tags, want) || n != pages {
			t.Errorf("%s: got %q in %d pages, want %q in %d", query, tags, n, want, pages)
		}
	}
	if tags, _ := allTags(s, path+"?last=a", sitetest.As("alice")); !slices.Equal(tags, []string{"c", "d"}) {
		t.Errorf("got %q after a, want c and d", tags)
	}
	if tags, n := allTags(s, "/acme/sub"+directory.Infix+"v2/library/alpine/tags/list?n=3", sitetest.As("alice")); !slices.Equal(tags, want) || n != 2 {
		t.Errorf("by a mirror's path: got %q in %d pages, want %q in 2", tags, n, want)
	}
	for _, n := range []string{"-1", "x", "1.5", "99999999999"} {
		s.Get(path+"?n="+n, sitetest.As("alice")).Expect(t, http.StatusBadRequest, "UNSUPPORTED")
	}
	up.PutManifest("library/untagged", v1.MediaTypeImageManifest, []byte("{}"))
	if a := s.Get("/v2/acme/sub"+directory.Infix+"untagged/tags/list", sitetest.As("alice")); !strings.Contains(string(a.Data), `"tags":[]`) {
		t.Errorf("got %s, want an empty array", a.Data)
	}
}

// TestServeTagsOfOtherRegistries checks that lists with null, with the
// registry's own parameters or with links to other hosts are served.
func TestServeTagsOfOtherRegistries(t *testing.T) {
	up := registrytest.New(t)
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	serve := func(answers map[string][2]string) {
		up.SetFault(func(w http.ResponseWriter, r *http.Request) bool {
			answer := answers[r.URL.RawQuery]
			if answer[1] != "" {
				w.Header().Set("Link", answer[1])
			}
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(answer[0]))
			return true
		})
	}
	for name, row := range map[string]struct {
		answers map[string][2]string
		want    []string
	}{
		"null": {map[string][2]string{"": {`{"name":"x","tags":null}`, ""}}, nil},
		// Quay names pages by an opaque parameter of its own.
		"quay": {map[string][2]string{
			"":                   {`{"tags":["a"]}`, `</v2/library/quay/tags/list?next_page=x%3D&n=1>; rel="next"`},
			"n=1&next_page=x%3D": {`{"tags":["b"]}`, ""},
		}, []string{"a", "b"}},
		"evil": {map[string][2]string{
			"":       {`{"tags":["a"]}`, `<https://evil.example/v2/x/tags/list?last=a&secret=1>; rel="next"`},
			"last=a": {`{"tags":["b"]}`, `<//evil.example/>; rel="next"`},
		}, []string{"a", "b"}},
	} {
		t.Run(name, func(t *testing.T) {
			serve(row.answers)
			if tags, _ := allTags(s, "/v2/acme"+directory.Infix+name+"/tags/list", sitetest.As("alice")); !slices.Equal(tags, row.want) {
				t.Errorf("got %q, want %q", tags, row.want)
			}
		})
	}
}

// TestServeReferrers checks that referrers are served in one index, filtered by
// artifact type, and can be pulled.
func TestServeReferrers(t *testing.T) {
	up := registrytest.New(t, registrytest.WithPageSize(2))
	image := up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	var all, signatures []string
	for i, artifactType := range []string{"application/signature", "application/sbom", "application/signature", "application/other", "application/sbom"} {
		d := string(up.PutReferrer("library/alpine", image.Manifest, artifactType, []byte{byte(i)}))
		if all = append(all, d); artifactType == "application/signature" {
			signatures = append(signatures, d)
		}
	}
	s := sitetest.Start(t, sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Hub(up))
	path := "/v2/acme" + directory.Infix + "alpine/referrers/" + string(image.Manifest)
	for query, want := range map[string][]string{"": all, "?artifactType=application/signature": signatures, "?artifactType=none": nil} {
		a := s.Get(path+query, sitetest.As("alice")).Expect(t, http.StatusOK, "").Has(t, "Content-Type", v1.MediaTypeImageIndex).Has(t, "Link", "")
		filters := ""
		if query != "" {
			filters = "artifactType"
		}
		a.Has(t, "OCI-Filters-Applied", filters)
		var index v1.Index
		if err := json.Unmarshal(a.Data, &index); err != nil || index.MediaType != v1.MediaTypeImageIndex {
			t.Fatalf("got %s, error %v; want an index", a.Data, err)
		}
		var got []string
		for _, m := range index.Manifests {
			got = append(got, string(m.Digest))
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%q: got %q, want %q", query, got, want)
		}
		sitetest.SameHeaders(t, s.Get(path+query, sitetest.As("alice")), s.Head(path+query, sitetest.As("alice")))
	}
	// A referrer can be pulled.
	sitetest.Pull(t, s, "acme", "alpine", signatures[0], sitetest.As("alice"))
	for _, d := range []string{sitetest.ZeroDigest, "sha512:" + strings.Repeat("0", 128)} {
		a := s.Get("/v2/acme"+directory.Infix+"alpine/referrers/"+d, sitetest.As("alice")).Expect(t, http.StatusOK, "")
		if !strings.Contains(string(a.Data), `"manifests":[]`) {
			t.Errorf("got %s, want an empty index", a.Data)
		}
	}
}
