package caddymodule

import (
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/health"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
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
func awaitHealth(s *sitetest.Site) {
	s.T.Helper()
	sitetest.Eventually(s.T, "all parts have answered", func() bool {
		r := runningHandler(s.T).health.Report(s.T.Context(), false)
		return !slices.ContainsFunc(append(r.Directories, *r.Storage), func(p health.Part) bool { return p.Status != health.OK && p.Asked == nil })
	})
}

// expectHealth checks a response to a request without a login.
func expectHealth(s *sitetest.Site, path string, status int, body string) {
	s.T.Helper()
	a := s.Get(path).Expect(s.T, status, "")
	if string(a.Data) != body {
		s.T.Errorf("GET %s: got %s, want %s", path, a.Data, body)
	}
	a.Has(s.T, "Content-Type", "application/json").Has(s.T, "Cache-Control", "no-store")
	sitetest.SameHeaders(s.T, a, s.Head(path))
}

// TestHealth checks that the storage decides about the health of a site with local
// accounts, that an upstream does not, and that only admins see more than the
// status.
func TestHealth(t *testing.T) {
	up := registrytest.New(t)
	s := sitetest.Start(t, sitetest.Users("alice", "bob", "carol", "dave"), sitetest.AcmeRoles, "admins dave", sitetest.Hub(up))
	up.Close()
	awaitHealth(s)
	expectHealth(s, alivePath, http.StatusOK, `{"status":"ok"}`)
	expectHealth(s, readyPath, http.StatusOK, `{"status":"ok"}`)
	expectHealth(s, alivePath+"/?ready", http.StatusOK, `{"status":"ok"}`)
	s.Get(readyPath, sitetest.Method(http.MethodPost)).Expect(t, http.StatusMethodNotAllowed, "UNSUPPORTED").Has(t, "Allow", "GET, HEAD")
	if a := s.Get(readyPath, sitetest.As("alice")).Expect(t, http.StatusOK, ""); string(a.Data) != `{"status":"ok"}` {
		t.Errorf("got %s for a member, want the status only", a.Data)
	}
	for _, who := range []sitetest.RequestOption{sitetest.As("dave"), sitetest.Bearer(s.Token("dave"))} {
		a := s.Get(alivePath, who).Expect(t, http.StatusOK, "").Has(t, "Cache-Control", "no-store")
		for _, want := range []string{`"storage":{"name":"filesystem ` + s.Cache + `","status":"ok","asked":"20`, `"directories":[{"name":"static","status":"ok"}]`} {
			if !strings.Contains(string(a.Data), want) {
				t.Errorf("got %s for an admin, want %s", a.Data, want)
			}
		}
	}
	s.Get(readyPath, sitetest.Basic("dave", "wrong")).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED").Has(t, "WWW-Authenticate", `Basic realm="dependency proxy", charset="UTF-8"`)
	if n := up.Counts(); n != (registrytest.Counts{}) {
		t.Errorf("upstream got %+v, want no request", n)
	}
	if left, err := os.ReadDir(filepath.Join(s.Cache, "tmp")); err != nil || len(left) > 0 {
		t.Errorf("got the temporary files %v, error %v; want none", left, err)
	}
}

// TestHealthWithoutStorage checks that a site whose cache directory cannot be
// written to is alive but not ready.
func TestHealthWithoutStorage(t *testing.T) {
	s := sitetest.Start(t, sitetest.Users("dave"), sitetest.Private("acme", "dave"), "admins dave")
	if err := os.RemoveAll(s.Cache); err != nil {
		t.Fatal(err)
	}
	sitetest.WriteFile(t, s.Cache, "no folder")
	awaitHealth(s)
	for _, path := range []string{readyPath, alivePath + "/?ready", readyPath + "=1"} {
		expectHealth(s, path, http.StatusServiceUnavailable, `{"status":"unavailable"}`)
	}
	expectHealth(s, alivePath, http.StatusOK, `{"status":"unavailable"}`)
	a := s.Get(readyPath, sitetest.As("dave")).Expect(t, http.StatusServiceUnavailable, "")
	if !strings.Contains(string(a.Data), "create a temporary file: ") {
		t.Errorf("got %s, want the error of the storage", a.Data)
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
	s := sitetest.Start(t, sitetest.GitlabAt(t, g), ldap.Directory(), sitetest.Private("acme", "ldap:alice"))
	awaitHealth(s)
	expectHealth(s, readyPath, http.StatusOK, `{"status":"ok"}`)
	ldap.Stop()
	s.Restart(sitetest.GitlabAt(t, g), ldap.Directory(), sitetest.Private("acme", "ldap:alice"), "admins ldap:alice")
	awaitHealth(s)
	for range 20 {
		expectHealth(s, readyPath, http.StatusServiceUnavailable, `{"status":"unavailable"}`)
	}
	// The login of an admin cannot be checked either.
	if a := s.Get(readyPath, sitetest.As("alice")).Expect(t, http.StatusServiceUnavailable, ""); string(a.Data) != `{"status":"unavailable"}` {
		t.Errorf("got %s, want the status only", a.Data)
	}
	if n := g.Asked("/api/v4/personal_access_tokens/self"); n != 2 {
		t.Errorf("GitLab was asked %d times, want once for each configuration", n)
	}
}
