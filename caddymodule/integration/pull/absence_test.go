package pull

import (
	"net/http"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestAbsence checks that upstream is asked once about a tag that does not exist, for each
// group, and that a purge and a reload make it ask again.
func TestAbsence(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	lines := []string{sitetest.Users("alice"), sitetest.Private("acme", "alice"), sitetest.Private("other", "alice"), "admins alice"}
	s := sitetest.Start(t, append(lines, sitetest.Hub(up, "absent_for 1h"))...)
	missing := func(group string, status int) {
		t.Helper()
		s.Get(sitetest.ManifestPath(group, "alpine", "4"), sitetest.As("alice")).Expect(t, status, map[int]string{http.StatusNotFound: "MANIFEST_UNKNOWN"}[status])
	}
	for range 5 {
		missing("acme", http.StatusNotFound)
		s.Head(sitetest.ManifestPath("acme", "alpine", "4"), sitetest.As("alice")).Expect(t, http.StatusNotFound, "")
	}
	sitetest.ExpectRequests(t, up, "a missing tag", registrytest.Counts{ManifestHead: 1, ManifestGet: 1})
	for range 2 {
		missing("other", http.StatusNotFound)
	}
	sitetest.ExpectRequests(t, up, "another group", registrytest.Counts{ManifestHead: 1})

	image := up.PutImage("library/alpine", "4", sitetest.Random(4, 100))
	missing("acme", http.StatusNotFound)
	sitetest.ExpectRequests(t, up, "a tag that exists now", registrytest.Counts{})
	s.Get("/acme/dependency_proxy/cache?image=alpine", sitetest.Method(http.MethodDelete), sitetest.As("alice")).Expect(t, http.StatusAccepted, "")
	missing("acme", http.StatusOK)
	missing("other", http.StatusNotFound)
	s.Get("/other/dependency_proxy/cache", sitetest.Method(http.MethodDelete), sitetest.As("alice")).Expect(t, http.StatusAccepted, "")
	missing("other", http.StatusOK)

	s.Get(sitetest.ManifestPath("acme", "alpine", "5"), sitetest.As("alice")).Expect(t, http.StatusNotFound, "MANIFEST_UNKNOWN")
	up.PutImage("library/alpine", "5", sitetest.Random(4, 100))
	s.Load(append(lines, sitetest.Hub(up, "absent_for 2h"))...)
	s.Get(sitetest.ManifestPath("acme", "alpine", "5"), sitetest.As("alice")).Expect(t, http.StatusOK, "")
	s.Get(sitetest.ManifestPath("acme", "alpine", string(image.Manifest)), sitetest.As("alice")).Expect(t, http.StatusOK, "")
}
