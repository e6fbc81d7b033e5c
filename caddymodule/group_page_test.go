package caddymodule

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/page"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestGroupPage checks that the page of a group lists, as JSON and as HTML,
// what was pulled through it and its subgroups by the names to pull it by.
func TestGroupPage(t *testing.T) {
	up, second := registrytest.New(t), registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", sitetest.Random(1, 2000))
	up.PutImage("team/app", "1.0", sitetest.Random(2, 2000))
	second.PutImage("tools/lint", "v2", sitetest.Random(3, 2000))
	s := sitetest.Start(t, sitetest.Users("alice", "bob", "carol", "dave"), sitetest.AcmeRoles, "admins dave", "group acme/sub {\n quota 1MiB\n}\n", sitetest.Private("other", "carol"), sitetest.Hub(up), sitetest.UpstreamAt("second.example", second.URL()))
	for group, names := range map[string][]string{"acme": {"alpine:3.20", "second.example/tools/lint:v2"}, "acme/sub": {"team/app:1.0"}, "other": {"team/app:1.0"}} {
		for _, name := range names {
			repository, tag, _ := strings.Cut(name, ":")
			s.Get(sitetest.ManifestPath(group, repository, tag), sitetest.As("carol")).Expect(t, http.StatusOK, "")
		}
	}
	s.Get("/other/dependency_proxy/cache", sitetest.Method(http.MethodDelete), sitetest.As("dave")).Expect(t, http.StatusAccepted, "") // measures all groups
	sitetest.Eventually(t, "the groups are measured", func() bool { return len(s.GroupTotals()) > 0 })
	look := func(group string, more ...sitetest.RequestOption) sitetest.Answer {
		return s.Get("/"+group+"/dependency_proxy", append(more, sitetest.As("bob"))...).Expect(t, http.StatusOK, "")
	}
	var seen page.Group
	a := look("acme").Has(t, "Content-Type", "application/json")
	if err := json.Unmarshal(a.Data, &seen); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, im := range seen.Images {
		names = append(names, im.Name)
		if im.Since.IsZero() || strings.Contains(im.Name, "alpine") && im.Digest != string(image.Manifest) {
			t.Errorf("got %+v, want an image with its time and digest", im)
		}
	}
	slices.Sort(names)
	prefix := infix
	want := []string{"acme" + prefix + "alpine:3.20", "acme" + prefix + "second.example/tools/lint:v2", "acme/sub" + prefix + "team/app:1.0"}
	if !slices.Equal(names, want) || seen.Visibility != directory.Private || seen.Prefix != s.Host+"/acme/dependency_proxy/containers" || seen.Usage == nil || seen.Usage.Blobs != 3 || seen.Usage.Bytes < 300 {
		t.Errorf("got %s, want the images %q and 3 blobs of a private group", a.Data, want)
	}
	if err := json.Unmarshal(look("acme/sub").Data, &seen); err != nil || seen.Usage.Quota != 1<<20 || seen.Usage.Blobs != 1 {
		t.Errorf("got %+v, error %v; want 1 blob and the quota of 1 MiB", seen, err)
	}
	html := look("acme", sitetest.Header("Accept", "text/html,*/*")).Has(t, "Content-Type", "text/html; charset=utf-8")
	for _, what := range []string{"docker login " + s.Host, s.Host + "/acme" + infix + "alpine:3.20", "private group", "second.example</th>", "in 3 blobs"} {
		if !strings.Contains(string(html.Data), what) {
			t.Errorf("the page lacks %q: %s", what, html.Data)
		}
	}
	if policy := html.Header.Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'none'") {
		t.Errorf("got the policy %q, want one that begins with default-src 'none'", policy)
	}
	// The names of images of another upstream login are not shown.
	s.Load(sitetest.Users("alice", "bob", "carol"), sitetest.AcmeRoles, sitetest.UpstreamAt("docker.io", second.URL()))
	if a := look("acme"); strings.Contains(string(a.Data), "alpine") {
		t.Errorf("got %s, want no image of another login", a.Data)
	}
}

// TestPurge checks that a maintainer can purge one image or the whole group,
// that upstream is asked again afterwards, and that other groups are not
// affected.
func TestPurge(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 2000))
	up.PutImage("team/app", "1.0", sitetest.Random(2, 2000))
	s := sitetest.Start(t, sitetest.Users("alice", "bob", "carol"), sitetest.AcmeRoles, sitetest.Private("other", "alice"), sitetest.Hub(up))
	cache := "/acme/dependency_proxy/cache"
	pullAll := func() {
		t.Helper()
		sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
		sitetest.Pull(t, s, "acme", "team/app", "1.0", sitetest.As("alice"))
		sitetest.Pull(t, s, "other", "alpine", "3.20", sitetest.As("alice"))
	}
	pullAll()
	s.Get("/v2/acme"+infix+"alpine/tags/list", sitetest.As("alice")).Expect(t, http.StatusOK, "")
	asks := func(want int) {
		t.Helper()
		up.Reset()
		pullAll()
		if counts := up.Counts(); counts.ManifestHead != want {
			t.Errorf("got requests about %d tags, want %d: %+v", counts.ManifestHead, want, counts)
		}
	}
	asks(0)
	a := s.Get(cache+"?image=alpine", sitetest.Method(http.MethodDelete), sitetest.As("bob")).Expect(t, http.StatusAccepted, "")
	if string(a.Data) != `{"purged":3}` { // manifest, config and layer
		t.Errorf("got %s, want 3 purged", a.Data)
	}
	asks(1)
	s.Get(cache, sitetest.Method(http.MethodDelete), sitetest.As("bob")).Expect(t, http.StatusAccepted, "")
	up.Reset()
	s.Get("/v2/acme"+infix+"alpine/tags/list", sitetest.As("alice")).Expect(t, http.StatusOK, "")
	if up.Counts().Tags != 1 {
		t.Errorf("got %d requests of the list of tags, want 1 after the purge", up.Counts().Tags)
	}
	asks(2)
	s.Get(cache+"?image=Alpine", sitetest.Method(http.MethodDelete), sitetest.As("bob")).Expect(t, http.StatusBadRequest, "NAME_INVALID")
	if !strings.Contains(s.Logs(), `"msg":"purged"`) {
		t.Error("the log lacks the purge")
	}
}

// TestPurgeFreesDisk checks that a purge removes from disk what no other group
// has.
func TestPurgeFreesDisk(t *testing.T) {
	up := registrytest.New(t)
	shared := up.PutImage("library/alpine", "3.20", sitetest.Random(1, 2000))
	own := up.PutImage("team/app", "1.0", sitetest.Random(2, 2000))
	s := sitetest.Start(t, sitetest.Users("alice", "bob"), sitetest.AcmeRoles, sitetest.Private("other", "alice"), sitetest.Hub(up))
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
	sitetest.Pull(t, s, "acme", "team/app", "1.0", sitetest.As("alice"))
	sitetest.Pull(t, s, "other", "alpine", "3.20", sitetest.As("alice"))
	s.Get("/acme/dependency_proxy/cache", sitetest.Method(http.MethodDelete), sitetest.As("bob")).Expect(t, http.StatusAccepted, "")
	for _, d := range append(own.Layers, own.Config, own.Manifest) {
		sitetest.Eventually(t, "it has gone from disk", func() bool { return !s.IsStored(d) })
	}
	up.Reset()
	sitetest.Pull(t, s, "other", "alpine", "3.20", sitetest.As("alice"))
	if counts := up.Counts(); counts != (registrytest.Counts{}) || !s.IsStored(shared.Layers[0]) {
		t.Errorf("got requests %+v by the other group, want none and its blob still stored", counts)
	}
}

// TestPurgeQuery checks that a purge requires either a named image or no
// parameter at all.
func TestPurgeQuery(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	s := sitetest.Start(t, sitetest.Users("alice", "bob"), sitetest.AcmeRoles, sitetest.Hub(up))
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
	links := func() int { return strings.Count(strings.Join(s.Stored(), "\n"), "links/") }
	before := links()
	purge := func(query string, status int) sitetest.Answer {
		t.Helper()
		return s.Get("/acme/dependency_proxy/cache"+query, sitetest.Method(http.MethodDelete), sitetest.As("bob")).
			Expect(t, status, map[int]string{400: "UNSUPPORTED", 202: ""}[status])
	}
	for query, want := range map[string]string{
		"?image=": "the parameter image is empty", "?image": "the parameter image is empty",
		"?Image=alpine": "'Image'", "?images=alpine": "'images'", "?image=alpine&image=": "duplicate", "?image=&x=1": "'x'", "?image=%zz": "invalid query", "?image=alpine;x=1": "invalid query",
	} {
		if _, message := purge(query, 400).Problem(); !strings.Contains(message, want) {
			t.Errorf("%s: got %q, want %q", query, message, want)
		}
	}
	if n := links(); n != before || before == 0 {
		t.Errorf("got %d links, want all %d still there", n, before)
	}
	if a := purge("?image=alpine", 202); bytes.Contains(a.Data, []byte(`:0}`)) {
		t.Errorf("got %s, want a purged image", a.Data)
	}
	purge("", 202)
}
