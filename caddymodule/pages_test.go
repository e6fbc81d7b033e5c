package caddymodule

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/index"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/page"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

const sitePath = "/dependency_proxy"

// sitePage returns the page of the site, as JSON, and the groups on it as "PATH ACCESS".
func sitePage(s *sitetest.Site, path string, who sitetest.RequestOption) (seen page.Site, groups []string) {
	s.T.Helper()
	a := s.Get(path, who).Expect(s.T, http.StatusOK, "")
	if err := json.Unmarshal(a.Data, &seen); err != nil {
		s.T.Fatal(err)
	}
	for _, g := range seen.Groups {
		groups = append(groups, g.Group+" "+g.Access)
	}
	return seen, groups
}

// groupPage returns the page of a group, as JSON.
func groupPage(s *sitetest.Site, path string, who sitetest.RequestOption) (seen page.Group) {
	s.T.Helper()
	a := s.Get(path, who).Expect(s.T, http.StatusOK, "")
	if err := json.Unmarshal(a.Data, &seen); err != nil {
		s.T.Fatal(err)
	}
	return seen
}

// TestSitePage checks that the page of the site lists the groups that an account may
// read, that only admins see more, and that it needs a login.
func TestSitePage(t *testing.T) {
	s := sitetest.StartWithAdmin(t, sitetest.Users("alice", "bob", "carol", "dave"), sitetest.AcmeRoles, sitetest.Private("acme/sub"), sitetest.Private("other", "bob"),
		sitetest.Visible("inside", directory.Internal), sitetest.Visible("open", directory.Public), "admins dave", sitetest.Hub(registrytest.New(t)))
	for _, path := range []string{sitePath, sitePath + "/"} {
		s.Get(path).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED").Has(t, "WWW-Authenticate", sitetest.BasicChallenge).Has(t, "Cache-Control", "no-store")
		s.Get(path, sitetest.Basic("alice", "wrong")).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED").Has(t, "WWW-Authenticate", sitetest.BasicChallenge)
	}
	anonymous := s.Get(sitetest.Auth).Expect(t, http.StatusOK, "").Tokens().Token
	s.Get(sitePath, sitetest.Bearer(anonymous)).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED").Has(t, "WWW-Authenticate", sitetest.BasicChallenge)
	s.Get(sitePath, sitetest.As("dave"), sitetest.Method(http.MethodDelete)).Expect(t, http.StatusMethodNotAllowed, "UNSUPPORTED").Has(t, "Allow", "GET, HEAD")

	for name, want := range map[string][]string{
		"alice": {"acme member", "acme/sub member", "inside internal group", "open public group"},
		"bob":   {"acme maintainer", "acme/sub maintainer", "inside internal group", "open public group", "other member"},
		"dave":  {"acme admin", "acme/sub admin", "inside admin", "open admin", "other admin"},
	} {
		for _, who := range []sitetest.RequestOption{sitetest.As(name), sitetest.Bearer(s.Token(name))} {
			seen, groups := sitePage(s, sitePath, who)
			if !slices.Equal(groups, want) || (seen.SiteManaged != nil) != (name == "dave") || seen.Account != "static:"+name {
				t.Errorf("%s: got the groups %q and the admin's part %v, want %q", name, groups, seen.SiteManaged, want)
			}
		}
	}
	seen, _ := sitePage(s, sitePath, sitetest.As("dave"))
	if len(seen.Upstreams) != 1 || seen.Upstreams[0].Name != "docker.io" || seen.Health.Storage == nil || len(seen.Days) != chartDays || seen.Fills == nil {
		t.Errorf("got %+v for an admin, want the upstream, the storage and the days", seen.SiteManaged)
	}
	html := s.Get(sitePath, sitetest.As("alice"), sitetest.Header("Accept", "text/html")).Expect(t, http.StatusOK, "").Has(t, "Content-Type", "text/html; charset=utf-8").Has(t, "X-Content-Type-Options", "nosniff")
	if text := string(html.Data); !strings.Contains(text, `<a href="/acme/dependency_proxy">acme</a>`) || strings.Contains(text, "other") || strings.Contains(text, "Upstreams") {
		t.Errorf("got %s, want a link to acme and nothing about others", text)
	}
	sitetest.SameHeaders(t, html, s.Head(sitePath, sitetest.As("alice"), sitetest.Header("Accept", "text/html")))

	// An admin's token that is limited does not show what is beyond its limits.
	for flag, want := range map[string][]string{"--group acme --scope pull": {"acme admin", "acme/sub admin", "open public group"}, "--scope pull": {"acme admin", "acme/sub admin", "inside admin", "open public group", "other admin"}} {
		secret, _ := s.CreateToken(append([]string{"--account", "static:dave"}, strings.Fields(flag)...)...)
		if seen, groups := sitePage(s, sitePath, sitetest.Basic("dave", secret)); seen.SiteManaged != nil || !slices.Equal(groups, want) {
			t.Errorf("token with %s: got the groups %q and the admin's part %v, want %q", flag, groups, seen.SiteManaged, want)
		}
	}
}

// TestSitePageUpstream checks that admins see that an upstream is down, and why.
func TestSitePageUpstream(t *testing.T) {
	up := registrytest.New(t)
	s := sitetest.Start(t, sitetest.Users("dave"), sitetest.Private("acme", "dave"), "admins dave", sitetest.Hub(up))
	seen, _ := sitePage(s, sitePath, sitetest.As("dave"))
	if u := seen.Upstreams[0]; u.State != "up" || u.Host != strings.TrimPrefix(up.URL(), "http://") || u.Login != "common" {
		t.Errorf("got %+v, want an upstream that is up", u)
	}
	up.Close()
	for _, image := range []string{"a", "b", "c", "d"} {
		s.Get(sitetest.ManifestPath("acme", image, "1"), sitetest.As("dave")).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	}
	seen, _ = sitePage(s, sitePath, sitetest.As("dave"))
	if u := seen.Upstreams[0]; u.State != "down" || u.Error == "" || u.Since.IsZero() {
		t.Errorf("got %+v, want an upstream that is down", u)
	}
	html := string(s.Get(sitePath, sitetest.As("dave"), sitetest.Header("Accept", "text/html")).Expect(t, http.StatusOK, "").Data)
	if !strings.Contains(html, `<span class="bad">down</span>`) {
		t.Errorf("got %s, want an upstream that is down", html)
	}
}

// TestSitePagePages checks that the groups of a large site are shown page by page.
func TestSitePagePages(t *testing.T) {
	var lines []string
	for i := range 205 {
		lines = append(lines, sitetest.Private(fmt.Sprintf("g%03d", i), "alice"))
	}
	s := sitetest.Start(t, append(lines, sitetest.Users("alice", "bob"), sitetest.Private("other", "bob"))...)
	var all []string
	for path, after := sitePath, "-"; after != ""; path = sitePath + "?after=" + after {
		seen, groups := sitePage(s, path, sitetest.As("alice"))
		if len(groups) > 100 {
			t.Errorf("got %d groups on a page, want at most 100", len(groups))
		}
		all, after = append(all, groups...), seen.Next
	}
	if len(all) != 205 || !slices.IsSorted(all) || slices.Contains(all, "other member") {
		t.Errorf("got the groups %q, want 205 sorted ones", all)
	}
	for _, after := range []string{"g100", "other", "x.y"} {
		s.Get(sitePath+"?after="+after, sitetest.As("alice")).Expect(t, http.StatusBadRequest, "UNSUPPORTED")
	}
}

// TestSitePageOfGitLab checks that a group which only a directory has is shown to those
// to whom the directory gives a role in it, once something is stored for it.
func TestSitePageOfGitLab(t *testing.T) {
	g, eve, _ := sitetest.NewGitLabWithEve(t, "ops", "elsewhere")
	mallory := sitetest.Basic("mallory", g.AddUser(67, "mallory"))
	s := sitetest.GitlabSite(t, g, sitetest.GitlabAt(t, g, "cache_for 1m", "members_only off"), sitetest.Users("dave"), sitetest.Visible("inside", directory.Internal), "admins static:dave")
	for _, group := range []string{"ops", "elsewhere"} {
		s.Get(sitetest.ManifestPath(group, "alpine", "3.20"), eve).Expect(t, http.StatusOK, "")
	}
	s.Get("/elsewhere/dependency_proxy/cache", sitetest.Method(http.MethodDelete), eve).Expect(t, http.StatusAccepted, "") // measures all groups
	sitetest.Eventually(t, "the group is measured", func() bool { return s.GroupTotals()["ops"].Blobs > 0 })
	for _, row := range []struct {
		who  sitetest.RequestOption
		want []string
	}{
		{eve, []string{"inside internal group", "ops owner"}},
		{mallory, []string{"inside internal group"}},
		{sitetest.As("dave"), []string{"inside admin", "ops admin"}},
	} {
		if seen, groups := sitePage(s, sitePath, row.who); !slices.Equal(groups, row.want) || seen.Incomplete {
			t.Errorf("got the groups %q, want %q", groups, row.want)
		}
	}
	g.Fault = func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusBadGateway); return true }
	s.Restart(sitetest.GitlabAt(t, g, "cache_for 1m"), sitetest.Users("alice"), "group inside {\n members static:alice\n members_from gitlab\n}\n", sitetest.Private("own", "static:alice"))
	if seen, groups := sitePage(s, sitePath, sitetest.As("alice")); !slices.Contains(groups, "own member") || seen.SiteManaged != nil {
		t.Errorf("got the groups %q while GitLab is away, want what the configuration decides", groups)
	}
}

// TestGroupPageOfMember checks that members see how to pull and what the limits of the
// group allow, and nothing about what is stored.
func TestGroupPageOfMember(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 2000))
	s := sitetest.Start(t, sitetest.Users("alice", "bob"), "group acme {\n members alice\n maintainers bob\n allow ghcr.io/acme/** docker.io/library/alpine\n}\n", sitetest.Visible("open", directory.Public),
		sitetest.Hub(up), sitetest.UpstreamAt("ghcr.io", up.URL()), sitetest.UpstreamAt("quay.io", up.URL()))
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("alice"))
	a := s.Get("/acme/dependency_proxy", sitetest.As("alice")).Expect(t, http.StatusOK, "")
	seen := groupPage(s, "/acme/dependency_proxy", sitetest.As("alice"))
	if seen.Access != "member" || seen.Managed != nil || !slices.Equal(seen.Upstreams, []string{"docker.io", "ghcr.io"}) || len(seen.Limits) != 1 || strings.Contains(string(a.Data), `"images"`) {
		t.Errorf("got %s, want the upstreams that the limits allow, and no images", a.Data)
	}
	html := string(s.Get("/acme/dependency_proxy", sitetest.As("alice"), sitetest.Header("Accept", "text/html")).Data)
	for what, want := range map[string]bool{"docker pull " + s.Host + "/acme" + infix + "alpine:latest": true, "allow ghcr.io/acme/**": true, "quay.io": false, "3.20": false, "Purge": false, "Traffic": false} {
		if strings.Contains(html, what) != want {
			t.Errorf("%q is on the page of a member: got %v, want %v: %s", what, !want, want, html)
		}
	}
	if seen := groupPage(s, "/acme/dependency_proxy", sitetest.As("bob")); seen.Access != "maintainer" || seen.Managed == nil || len(seen.Images) != 1 {
		t.Errorf("got %+v for a maintainer, want an image", seen)
	}
	if seen := groupPage(s, "/open/dependency_proxy", sitetest.As("alice")); seen.Access != "public group" || seen.Managed != nil {
		t.Errorf("got %+v, want the page of a public group for an account without a role", seen)
	}
}

// TestGroupPageTraffic checks that the bytes that were sent and fetched are shown for
// the day, for the group that caused them and those above it, and after a restart.
// A second group that pulls what is stored has fetched nothing.
func TestGroupPageTraffic(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", sitetest.Random(1, 200_000))
	lines := []string{sitetest.Users("alice", "dave"), "group acme {\n maintainers alice\n}\n", sitetest.Private("acme/sub"), sitetest.Private("other"), "admins dave", sitetest.Hub(up)}
	s := sitetest.Start(t, lines...)
	pullAll := func(group string) (size int64) {
		for _, path := range append([]string{sitetest.ManifestPath(group, "alpine", "3.20"), sitetest.BlobPath(group, "alpine", image.Config)}, sitetest.BlobPath(group, "alpine", image.Layers[0])) {
			size += int64(len(s.Get(path, sitetest.As("dave")).Expect(t, http.StatusOK, "").Data))
		}
		return size
	}
	size := pullAll("acme/sub")
	s.AwaitStored(string(image.Layers[0]), string(image.Config))
	pullAll("other")
	s.Head(sitetest.ManifestPath("acme/sub", "alpine", "3.20"), sitetest.As("dave"))
	s.Get(sitetest.BlobPath("acme/sub", "alpine", sitetest.ZeroDigest), sitetest.As("dave")).Expect(t, http.StatusNotFound, "BLOB_UNKNOWN")
	check := func() {
		t.Helper()
		for group, want := range map[string][2]int64{"acme": {size, size}, "acme/sub": {size, size}, "other": {size, 0}} {
			var got [2]int64
			sitetest.Eventually(t, fmt.Sprintf("%s has %d bytes", group, want), func() bool {
				days := groupPage(s, "/"+group+"/dependency_proxy", sitetest.As("dave")).Days
				got = [2]int64{days[chartDays-1].Served + days[chartDays-2].Served, days[chartDays-1].Fetched + days[chartDays-2].Fetched}
				return got == want
			})
		}
		seen, _ := sitePage(s, sitePath, sitetest.As("dave"))
		if last := seen.Days[chartDays-1]; last.Served+seen.Days[chartDays-2].Served != 2*size {
			t.Errorf("got %+v on the page of the site, want %d bytes served", last, 2*size)
		}
	}
	check()
	s.Restart(lines...)
	check()
	if image := groupPage(s, "/acme/dependency_proxy", sitetest.As("alice")).Images[0]; image.Size != size || image.Pulled.Before(image.Since) {
		t.Errorf("got %+v, want an image of %d bytes", image, size)
	}
}

// TestGroupPageImages checks that thousands of images are shown page by page, that with
// the last pull first, and that what a manifest names is not counted unless the group
// has pulled it.
func TestGroupPageImages(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 2000))
	s := sitetest.Start(t, sitetest.Users("bob"), sitetest.AcmeRoles, sitetest.Hub(up))
	sitetest.Pull(t, s, "acme", "alpine", "3.20", sitetest.As("bob"))
	h := runningHandler(t)
	for i := range 2100 {
		ref := index.Ref{Digest: digest.FromString(fmt.Sprint(i))}
		if err := h.cache.index.SetRef(context.Background(), h.scopeOf("docker.io", "acme", "library/many"), fmt.Sprintf("v%04d", i), ref); err != nil {
			t.Fatal(err)
		}
	}
	s.Head(sitetest.ManifestPath("acme", "alpine", "3.20"), sitetest.As("bob")).Expect(t, http.StatusOK, "")
	names := make(map[string]bool)
	for number, more := 1, true; more; number++ {
		seen := groupPage(s, fmt.Sprintf("/acme/dependency_proxy?page=%d", number), sitetest.As("bob"))
		if number == 1 && !strings.HasSuffix(seen.Images[0].Name, "/alpine:3.20") {
			t.Errorf("got %s first, want the image that was pulled last", seen.Images[0].Name)
		}
		if len(seen.Images) > 100 || seen.Page != number || seen.Pages != 22 || seen.Cut {
			t.Errorf("got page %d of %d with %d images", seen.Page, seen.Pages, len(seen.Images))
		}
		for _, image := range seen.Images {
			names[image.Name] = true
		}
		more = seen.More
	}
	if len(names) != 2101 {
		t.Errorf("got %d images on all pages, want 2101", len(names))
	}
	if seen := groupPage(s, "/acme/dependency_proxy?page=9223372036854775807", sitetest.As("bob")); len(seen.Images) != 0 || seen.More {
		t.Errorf("got %d images after the last page, want none", len(seen.Images))
	}
	for _, number := range []string{"0", "-1", "x", "1.5", "99999999999999999999"} {
		s.Get("/acme/dependency_proxy?page="+number, sitetest.As("bob")).Expect(t, http.StatusBadRequest, "UNSUPPORTED")
	}
}
