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
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/page"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

const sitePage = "/dependency_proxy"

// sitePage returns the page of the site, as JSON, and the groups on it as "PATH ACCESS".
func (s *site) sitePage(path string, who requestOption) (seen page.Site, groups []string) {
	s.t.Helper()
	a := s.get(path, who).expect(s.t, http.StatusOK, "")
	if err := json.Unmarshal(a.body, &seen); err != nil {
		s.t.Fatal(err)
	}
	for _, g := range seen.Groups {
		groups = append(groups, g.Group+" "+g.Access)
	}
	return seen, groups
}

// groupPage returns the page of a group, as JSON.
func (s *site) groupPage(path string, who requestOption) (seen page.Group) {
	s.t.Helper()
	a := s.get(path, who).expect(s.t, http.StatusOK, "")
	if err := json.Unmarshal(a.body, &seen); err != nil {
		s.t.Fatal(err)
	}
	return seen
}

// TestSitePage checks that the page of the site lists the groups that an account may
// read, that only admins see more, and that it needs a login.
func TestSitePage(t *testing.T) {
	s := startWithAdmin(t, users("alice", "bob", "carol", "dave"), acmeRoles, private("acme/sub"), private("other", "bob"),
		visible("inside", directory.Internal), visible("open", directory.Public), "admins dave", hub(registrytest.New(t)))
	for _, path := range []string{sitePage, sitePage + "/"} {
		s.get(path).expect(t, http.StatusUnauthorized, "UNAUTHORIZED").has(t, "WWW-Authenticate", basicChallenge).has(t, "Cache-Control", "no-store")
		s.get(path, basic("alice", "wrong")).expect(t, http.StatusUnauthorized, "UNAUTHORIZED").has(t, "WWW-Authenticate", basicChallenge)
	}
	anonymous := s.get(auth).expect(t, http.StatusOK, "").tokens().Token
	s.get(sitePage, bearer(anonymous)).expect(t, http.StatusUnauthorized, "UNAUTHORIZED").has(t, "WWW-Authenticate", basicChallenge)
	s.get(sitePage, as("dave"), method(http.MethodDelete)).expect(t, http.StatusMethodNotAllowed, "UNSUPPORTED").has(t, "Allow", "GET, HEAD")

	for name, want := range map[string][]string{
		"alice": {"acme member", "acme/sub member", "inside internal group", "open public group"},
		"bob":   {"acme maintainer", "acme/sub maintainer", "inside internal group", "open public group", "other member"},
		"dave":  {"acme admin", "acme/sub admin", "inside admin", "open admin", "other admin"},
	} {
		for _, who := range []requestOption{as(name), bearer(s.token(name))} {
			seen, groups := s.sitePage(sitePage, who)
			if !slices.Equal(groups, want) || (seen.SiteManaged != nil) != (name == "dave") || seen.Account != "static:"+name {
				t.Errorf("%s: got the groups %q and the admin's part %v, want %q", name, groups, seen.SiteManaged, want)
			}
		}
	}
	seen, _ := s.sitePage(sitePage, as("dave"))
	if len(seen.Upstreams) != 1 || seen.Upstreams[0].Name != "docker.io" || seen.Health.Storage == nil || len(seen.Days) != chartDays || seen.Fills == nil {
		t.Errorf("got %+v for an admin, want the upstream, the storage and the days", seen.SiteManaged)
	}
	html := s.get(sitePage, as("alice"), header("Accept", "text/html")).expect(t, http.StatusOK, "").has(t, "Content-Type", "text/html; charset=utf-8").has(t, "X-Content-Type-Options", "nosniff")
	if text := string(html.body); !strings.Contains(text, `<a href="/acme/dependency_proxy">acme</a>`) || strings.Contains(text, "other") || strings.Contains(text, "Upstreams") {
		t.Errorf("got %s, want a link to acme and nothing about others", text)
	}
	sameHeaders(t, html, s.head(sitePage, as("alice"), header("Accept", "text/html")))

	// An admin's token that is limited does not show what is beyond its limits.
	for flag, want := range map[string][]string{"--group acme --scope pull": {"acme admin", "acme/sub admin", "open public group"}, "--scope pull": {"acme admin", "acme/sub admin", "inside admin", "open public group", "other admin"}} {
		secret, _ := s.createToken(append([]string{"--account", "static:dave"}, strings.Fields(flag)...)...)
		if seen, groups := s.sitePage(sitePage, basic("dave", secret)); seen.SiteManaged != nil || !slices.Equal(groups, want) {
			t.Errorf("token with %s: got the groups %q and the admin's part %v, want %q", flag, groups, seen.SiteManaged, want)
		}
	}
}

// TestSitePageUpstream checks that admins see that an upstream is down, and why.
func TestSitePageUpstream(t *testing.T) {
	up := registrytest.New(t)
	s := start(t, users("dave"), private("acme", "dave"), "admins dave", hub(up))
	seen, _ := s.sitePage(sitePage, as("dave"))
	if u := seen.Upstreams[0]; u.State != "up" || u.Host != strings.TrimPrefix(up.URL(), "http://") || u.Login != "common" {
		t.Errorf("got %+v, want an upstream that is up", u)
	}
	up.Close()
	for _, image := range []string{"a", "b", "c", "d"} {
		s.get(manifestPath("acme", image, "1"), as("dave")).expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	}
	seen, _ = s.sitePage(sitePage, as("dave"))
	if u := seen.Upstreams[0]; u.State != "down" || u.Error == "" || u.Since.IsZero() {
		t.Errorf("got %+v, want an upstream that is down", u)
	}
	html := string(s.get(sitePage, as("dave"), header("Accept", "text/html")).expect(t, http.StatusOK, "").body)
	if !strings.Contains(html, `<span class="bad">down</span>`) {
		t.Errorf("got %s, want an upstream that is down", html)
	}
}

// TestSitePagePages checks that the groups of a large site are shown page by page.
func TestSitePagePages(t *testing.T) {
	var lines []string
	for i := range 205 {
		lines = append(lines, private(fmt.Sprintf("g%03d", i), "alice"))
	}
	s := start(t, append(lines, users("alice", "bob"), private("other", "bob"))...)
	var all []string
	for path, after := sitePage, "-"; after != ""; path = sitePage + "?after=" + after {
		seen, groups := s.sitePage(path, as("alice"))
		if len(groups) > 100 {
			t.Errorf("got %d groups on a page, want at most 100", len(groups))
		}
		all, after = append(all, groups...), seen.Next
	}
	if len(all) != 205 || !slices.IsSorted(all) || slices.Contains(all, "other member") {
		t.Errorf("got the groups %q, want 205 sorted ones", all)
	}
	for _, after := range []string{"g100", "other", "x.y"} {
		s.get(sitePage+"?after="+after, as("alice")).expect(t, http.StatusBadRequest, "UNSUPPORTED")
	}
}

// TestSitePageOfGitLab checks that a group which only a directory has is shown to those
// to whom the directory gives a role in it, once something is stored for it.
func TestSitePageOfGitLab(t *testing.T) {
	g, eve, _ := newGitLabWithEve(t, "ops", "elsewhere")
	mallory := basic("mallory", g.AddUser(67, "mallory"))
	s := gitlabSite(t, g, gitlabAt(t, g, "cache_for 1m", "members_only off"), users("dave"), visible("inside", directory.Internal), "admins static:dave")
	for _, group := range []string{"ops", "elsewhere"} {
		s.get(manifestPath(group, "alpine", "3.20"), eve).expect(t, http.StatusOK, "")
	}
	s.get("/elsewhere/dependency_proxy/cache", method(http.MethodDelete), eve).expect(t, http.StatusAccepted, "") // measures all groups
	eventually(t, "the group is measured", func() bool { return s.groupTotals()["ops"].Blobs > 0 })
	for _, row := range []struct {
		who  requestOption
		want []string
	}{
		{eve, []string{"inside internal group", "ops owner"}},
		{mallory, []string{"inside internal group"}},
		{as("dave"), []string{"inside admin", "ops admin"}},
	} {
		if seen, groups := s.sitePage(sitePage, row.who); !slices.Equal(groups, row.want) || seen.Incomplete {
			t.Errorf("got the groups %q, want %q", groups, row.want)
		}
	}
	g.Fault = func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(http.StatusBadGateway); return true }
	s.restart(gitlabAt(t, g, "cache_for 1m"), users("alice"), "group inside {\n members static:alice\n members_from gitlab\n}\n", private("own", "static:alice"))
	if seen, groups := s.sitePage(sitePage, as("alice")); !slices.Contains(groups, "own member") || seen.SiteManaged != nil {
		t.Errorf("got the groups %q while GitLab is away, want what the configuration decides", groups)
	}
}

// TestGroupPageOfMember checks that members see how to pull and what the limits of the
// group allow, and nothing about what is stored.
func TestGroupPageOfMember(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 2000))
	s := start(t, users("alice", "bob"), "group acme {\n members alice\n maintainers bob\n allow ghcr.io/acme/** docker.io/library/alpine\n}\n", visible("open", directory.Public),
		hub(up), upstreamAt("ghcr.io", up.URL()), upstreamAt("quay.io", up.URL()))
	pull(t, s, "acme", "alpine", "3.20", as("alice"))
	a := s.get("/acme/dependency_proxy", as("alice")).expect(t, http.StatusOK, "")
	seen := s.groupPage("/acme/dependency_proxy", as("alice"))
	if seen.Access != "member" || seen.Managed != nil || !slices.Equal(seen.Upstreams, []string{"docker.io", "ghcr.io"}) || len(seen.Limits) != 1 || strings.Contains(string(a.body), `"images"`) {
		t.Errorf("got %s, want the upstreams that the limits allow, and no images", a.body)
	}
	html := string(s.get("/acme/dependency_proxy", as("alice"), header("Accept", "text/html")).body)
	for what, want := range map[string]bool{"docker pull " + s.host + "/acme" + infix + "alpine:latest": true, "allow ghcr.io/acme/**": true, "quay.io": false, "3.20": false, "Purge": false, "Traffic": false} {
		if strings.Contains(html, what) != want {
			t.Errorf("%q is on the page of a member: got %v, want %v: %s", what, !want, want, html)
		}
	}
	if seen := s.groupPage("/acme/dependency_proxy", as("bob")); seen.Access != "maintainer" || seen.Managed == nil || len(seen.Images) != 1 {
		t.Errorf("got %+v for a maintainer, want an image", seen)
	}
	if seen := s.groupPage("/open/dependency_proxy", as("alice")); seen.Access != "public group" || seen.Managed != nil {
		t.Errorf("got %+v, want the page of a public group for an account without a role", seen)
	}
}

// TestGroupPageTraffic checks that the bytes that were sent and fetched are shown for
// the day, for the group that caused them and those above it, and after a restart.
// A second group that pulls what is stored has fetched nothing.
func TestGroupPageTraffic(t *testing.T) {
	up := registrytest.New(t)
	image := up.PutImage("library/alpine", "3.20", random(1, 200_000))
	lines := []string{users("alice", "dave"), "group acme {\n maintainers alice\n}\n", private("acme/sub"), private("other"), "admins dave", hub(up)}
	s := start(t, lines...)
	pullAll := func(group string) (size int64) {
		for _, path := range append([]string{manifestPath(group, "alpine", "3.20"), blobPath(group, "alpine", image.Config)}, blobPath(group, "alpine", image.Layers[0])) {
			size += int64(len(s.get(path, as("dave")).expect(t, http.StatusOK, "").body))
		}
		return size
	}
	size := pullAll("acme/sub")
	s.awaitStored(string(image.Layers[0]), string(image.Config))
	pullAll("other")
	s.head(manifestPath("acme/sub", "alpine", "3.20"), as("dave"))
	s.get(blobPath("acme/sub", "alpine", zeroDigest), as("dave")).expect(t, http.StatusNotFound, "BLOB_UNKNOWN")
	check := func() {
		t.Helper()
		for group, want := range map[string][2]int64{"acme": {size, size}, "acme/sub": {size, size}, "other": {size, 0}} {
			var got [2]int64
			eventually(t, fmt.Sprintf("%s has %d bytes", group, want), func() bool {
				days := s.groupPage("/"+group+"/dependency_proxy", as("dave")).Days
				got = [2]int64{days[chartDays-1].Served + days[chartDays-2].Served, days[chartDays-1].Fetched + days[chartDays-2].Fetched}
				return got == want
			})
		}
		seen, _ := s.sitePage(sitePage, as("dave"))
		if last := seen.Days[chartDays-1]; last.Served+seen.Days[chartDays-2].Served != 2*size {
			t.Errorf("got %+v on the page of the site, want %d bytes served", last, 2*size)
		}
	}
	check()
	s.restart(lines...)
	check()
	if image := s.groupPage("/acme/dependency_proxy", as("alice")).Images[0]; image.Size != size || image.Pulled.Before(image.Since) {
		t.Errorf("got %+v, want an image of %d bytes", image, size)
	}
}

// TestGroupPageImages checks that thousands of images are shown page by page, that with
// the last pull first, and that what a manifest names is not counted unless the group
// has pulled it.
func TestGroupPageImages(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 2000))
	s := start(t, users("bob"), acmeRoles, hub(up))
	pull(t, s, "acme", "alpine", "3.20", as("bob"))
	h := runningHandler(t)
	for i := range 2100 {
		ref := index.Ref{Digest: digest.FromString(fmt.Sprint(i))}
		if err := h.cache.index.SetRef(context.Background(), h.scopeOf("docker.io", "acme", "library/many"), fmt.Sprintf("v%04d", i), ref); err != nil {
			t.Fatal(err)
		}
	}
	s.head(manifestPath("acme", "alpine", "3.20"), as("bob")).expect(t, http.StatusOK, "")
	names := make(map[string]bool)
	for number, more := 1, true; more; number++ {
		seen := s.groupPage(fmt.Sprintf("/acme/dependency_proxy?page=%d", number), as("bob"))
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
	if seen := s.groupPage("/acme/dependency_proxy?page=9223372036854775807", as("bob")); len(seen.Images) != 0 || seen.More {
		t.Errorf("got %d images after the last page, want none", len(seen.Images))
	}
	for _, number := range []string{"0", "-1", "x", "1.5", "99999999999999999999"} {
		s.get("/acme/dependency_proxy?page="+number, as("bob")).expect(t, http.StatusBadRequest, "UNSUPPORTED")
	}
}
