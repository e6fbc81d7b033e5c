package caddymodule

import (
	"net/http"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestAbsence checks that upstream is asked once about a tag that does not exist, for each
// group, and that a purge and a reload make it ask again.
func TestAbsence(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 100))
	lines := []string{users("alice"), private("acme", "alice"), private("other", "alice"), "admins alice"}
	s := start(t, append(lines, hub(up, "absent_for 1h"))...)
	missing := func(group string, status int) {
		t.Helper()
		s.get(manifestPath(group, "alpine", "4"), as("alice")).expect(t, status, map[int]string{http.StatusNotFound: "MANIFEST_UNKNOWN"}[status])
	}
	for range 5 {
		missing("acme", http.StatusNotFound)
		s.head(manifestPath("acme", "alpine", "4"), as("alice")).expect(t, http.StatusNotFound, "")
	}
	expectRequests(t, up, "a missing tag", registrytest.Counts{ManifestHead: 1, ManifestGet: 1})
	for range 2 {
		missing("other", http.StatusNotFound)
	}
	expectRequests(t, up, "another group", registrytest.Counts{ManifestHead: 1})

	image := up.PutImage("library/alpine", "4", random(4, 100))
	missing("acme", http.StatusNotFound)
	expectRequests(t, up, "a tag that exists now", registrytest.Counts{})
	s.get("/acme/dependency_proxy/cache?image=alpine", method(http.MethodDelete), as("alice")).expect(t, http.StatusAccepted, "")
	missing("acme", http.StatusOK)
	missing("other", http.StatusNotFound)
	s.get("/other/dependency_proxy/cache", method(http.MethodDelete), as("alice")).expect(t, http.StatusAccepted, "")
	missing("other", http.StatusOK)

	s.get(manifestPath("acme", "alpine", "5"), as("alice")).expect(t, http.StatusNotFound, "MANIFEST_UNKNOWN")
	up.PutImage("library/alpine", "5", random(4, 100))
	s.load(append(lines, hub(up, "absent_for 2h"))...)
	s.get(manifestPath("acme", "alpine", "5"), as("alice")).expect(t, http.StatusOK, "")
	s.get(manifestPath("acme", "alpine", string(image.Manifest)), as("alice")).expect(t, http.StatusOK, "")
}
