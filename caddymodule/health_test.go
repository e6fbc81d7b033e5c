package caddymodule

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/health"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabtest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/ldaptest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

const (
	alivePath = "/dependency_proxy/health"
	readyPath = alivePath + "?ready"
)

// awaitHealth waits until all parts of the site have answered, however busy the
// machine is.
func (s *site) awaitHealth() {
	s.t.Helper()
	eventually(s.t, "all parts have answered", func() bool {
		r := runningHandler(s.t).health.Report(s.t.Context(), false)
		return !slices.ContainsFunc(append(r.Directories, *r.Storage), func(p health.Part) bool { return p.Status != health.OK && p.Asked == nil })
	})
}

// expectHealth checks a response to a request without a login.
func (s *site) expectHealth(path string, status int, body string) {
	s.t.Helper()
	a := s.get(path).expect(s.t, status, "")
	if string(a.body) != body {
		s.t.Errorf("GET %s: got %s, want %s", path, a.body, body)
	}
	a.has(s.t, "Content-Type", "application/json").has(s.t, "Cache-Control", "no-store")
	sameHeaders(s.t, a, s.head(path))
}

// TestHealth checks that the storage decides about the health of a site with local
// accounts, that an upstream does not, and that only admins see more than the
// status.
func TestHealth(t *testing.T) {
	up := registrytest.New(t)
	s := start(t, users("alice", "bob", "carol", "dave"), acmeRoles, "admins dave", hub(up))
	up.Close()
	s.awaitHealth()
	s.expectHealth(alivePath, http.StatusOK, `{"status":"ok"}`)
	s.expectHealth(readyPath, http.StatusOK, `{"status":"ok"}`)
	s.expectHealth(alivePath+"/?ready", http.StatusOK, `{"status":"ok"}`)
	s.get(readyPath, method(http.MethodPost)).expect(t, http.StatusMethodNotAllowed, "UNSUPPORTED").has(t, "Allow", "GET, HEAD")
	if a := s.get(readyPath, as("alice")).expect(t, http.StatusOK, ""); string(a.body) != `{"status":"ok"}` {
		t.Errorf("got %s for a member, want the status only", a.body)
	}
	for _, who := range []requestOption{as("dave"), bearer(s.token("dave"))} {
		a := s.get(alivePath, who).expect(t, http.StatusOK, "").has(t, "Cache-Control", "no-store")
		for _, want := range []string{`"storage":{"name":"filesystem ` + s.cache + `","status":"ok","asked":"20`, `"directories":[{"name":"static","status":"ok"}]`} {
			if !strings.Contains(string(a.body), want) {
				t.Errorf("got %s for an admin, want %s", a.body, want)
			}
		}
	}
	s.get(readyPath, basic("dave", "wrong")).expect(t, http.StatusUnauthorized, "UNAUTHORIZED").has(t, "WWW-Authenticate", `Basic realm="dependency proxy", charset="UTF-8"`)
	if n := up.Counts(); n != (registrytest.Counts{}) {
		t.Errorf("upstream got %+v, want no request", n)
	}
	if left, err := os.ReadDir(filepath.Join(s.cache, "tmp")); err != nil || len(left) > 0 {
		t.Errorf("got the temporary files %v, error %v; want none", left, err)
	}
}

// TestHealthWithoutStorage checks that a site whose cache directory cannot be
// written to is alive but not ready.
func TestHealthWithoutStorage(t *testing.T) {
	s := start(t, users("dave"), private("acme", "dave"), "admins dave")
	if err := os.RemoveAll(s.cache); err != nil {
		t.Fatal(err)
	}
	writeFile(t, s.cache, "no folder")
	s.awaitHealth()
	for _, path := range []string{readyPath, alivePath + "/?ready", readyPath + "=1"} {
		s.expectHealth(path, http.StatusServiceUnavailable, `{"status":"unavailable"}`)
	}
	s.expectHealth(alivePath, http.StatusOK, `{"status":"unavailable"}`)
	a := s.get(readyPath, as("dave")).expect(t, http.StatusServiceUnavailable, "")
	if !strings.Contains(string(a.body), "create a temporary file: ") {
		t.Errorf("got %s, want the error of the storage", a.body)
	}
}

// TestHealthWithoutDirectories checks that a site is not ready while none of its
// directories answers, and that requests without a login ask them once.
func TestHealthWithoutDirectories(t *testing.T) {
	g := gitlabtest.New(t)
	g.Fault = func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusBadGateway)
		return true
	}
	ldap := ldaptest.New(t, true)
	s := start(t, gitlabAt(t, g), ldap.Directory(), private("acme", "ldap:alice"))
	s.awaitHealth()
	s.expectHealth(readyPath, http.StatusOK, `{"status":"ok"}`)
	ldap.Stop()
	s.restart(gitlabAt(t, g), ldap.Directory(), private("acme", "ldap:alice"), "admins ldap:alice")
	s.awaitHealth()
	for range 20 {
		s.expectHealth(readyPath, http.StatusServiceUnavailable, `{"status":"unavailable"}`)
	}
	// The login of an admin cannot be checked either.
	if a := s.get(readyPath, as("alice")).expect(t, http.StatusServiceUnavailable, ""); string(a.body) != `{"status":"unavailable"}` {
		t.Errorf("got %s, want the status only", a.body)
	}
	if n := g.Asked("/api/v4/personal_access_tokens/self"); n != 2 {
		t.Errorf("GitLab was asked %d times, want once for each configuration", n)
	}
}
