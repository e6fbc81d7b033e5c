package login

import (
	"fmt"
	"net/http"
	"strconv"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabtest"
)

// TestGitLabDeployTokenGuesses checks that guesses from a hundred addresses do
// not get this site banned at GitLab, do not lock out a known token, and lock
// out a new one from a known address for no longer than the window.
func TestGitLabDeployTokenGuesses(t *testing.T) {
	g, _, _ := gitlabtest.NewAcme(t)
	secret := func(name string) string { return "gldt-" + name + "-secret-that-must-not-leak" }
	scopes := []string{"read_registry", "read_virtual_registry"}
	for i, name := range []string{"known", "new"} {
		g.Groups[1].Deploy[int64(11+i)] = &gitlabtest.DeployToken{Name: name, Secret: secret(name), Scopes: scopes}
	}
	s := sitetest.NewSite(t)
	s.Globals = sitetest.TrustedProxies
	s.AddSecrets("secret-that-must-not-leak")
	s.Load(sitetest.GitlabAt(t, g, "cache_for 1ns"))
	const ci, elsewhere = "192.0.2.1", "192.0.2.2"
	s.Get(sitetest.Auth, sitetest.Basic("known", secret("known")), sitetest.ForwardedFor(ci)).Expect(t, http.StatusOK, "")

	guesses := 0
	attack := func() map[int]int {
		status := map[int]int{}
		for i := range 100 {
			guesses++
			a := s.Get(sitetest.Auth, sitetest.Basic(fmt.Sprint("user", guesses), secret(fmt.Sprint("guess", guesses))), sitetest.ForwardedFor(fmt.Sprint("198.51.100.", i)))
			if status[a.StatusCode]++; a.StatusCode == http.StatusServiceUnavailable {
				if seconds, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil || seconds < 1 || seconds > 180 {
					t.Fatalf("got Retry-After %q, want up to 180", a.Header.Get("Retry-After"))
				}
			}
		}
		return status
	}
	before := g.Asked("/jwt/auth")
	if status := attack(); status[401] != 15 || status[503] != 85 {
		t.Errorf("got answers %v, want 15 times 401 and 85 times 503", status)
	}
	if asked := g.Asked("/jwt/auth") - before; asked > 20 {
		t.Errorf("got %d logins at GitLab, want at most 20", asked)
	}
	for range 30 {
		s.Get(sitetest.Auth, sitetest.Basic("known", secret("known")), sitetest.ForwardedFor(ci)).Expect(t, http.StatusOK, "")
		s.Get(sitetest.Auth, sitetest.Basic("known", secret("known")), sitetest.ForwardedFor(elsewhere)).Expect(t, http.StatusOK, "")
	}
	s.Get(sitetest.Auth, sitetest.Basic("new", secret("new")), sitetest.ForwardedFor("203.0.113.1")).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	s.Get(sitetest.Auth, sitetest.Basic("new", secret("new")), sitetest.ForwardedFor(ci)).Expect(t, http.StatusOK, "")
	s.Get(sitetest.Auth, sitetest.Basic("new", secret("new")), sitetest.ForwardedFor("203.0.113.1")).Expect(t, http.StatusOK, "") // it is known from the request before
}

// TestGitLabDeployTokensAlike checks that guesses at a name of another
// directory are counted like those at other names, so that no answer reveals
// which names exist.
func TestGitLabDeployTokensAlike(t *testing.T) {
	g, _, _ := gitlabtest.NewAcme(t)
	s := sitetest.NewSite(t)
	s.Globals = sitetest.TrustedProxies
	s.AddSecrets("secret-that-must-not-leak")
	s.Load(sitetest.Users("carol"), sitetest.GitlabAt(t, g, "cache_for 1ns"))
	for i, name := range []string{"carol", "nobody"} {
		for n := range 5 + 3 {
			status, code := http.StatusUnauthorized, "UNAUTHORIZED"
			if n >= 5 {
				status, code = http.StatusServiceUnavailable, "UNAVAILABLE"
			}
			secret := fmt.Sprint("gldt-", name, n, "-secret-that-must-not-leak")
			s.Get(sitetest.Auth, sitetest.Basic(name, secret), sitetest.ForwardedFor(fmt.Sprint("198.51.100.", i))).Expect(t, status, code)
		}
	}
	if g.Saw("gldt-carol") {
		t.Error("GitLab got a password of an account of the configuration, want none")
	}
}

// TestGitLabDeployTokenFoundByGroup checks that a request that names a group
// finds the deploy token of that group, even if the search has not found it.
func TestGitLabDeployTokenFoundByGroup(t *testing.T) {
	g, _, _ := gitlabtest.NewAcme(t)
	const secret = "gldt-ci-secret-that-must-not-leak"
	g.Groups[1].Deploy[11] = &gitlabtest.DeployToken{Name: "ci", Secret: secret, Scopes: []string{"read_registry", "read_virtual_registry"}}
	g.Fault = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/api/v4/groups" { // the list of groups, which lacks the group of the token
			return false
		}
		_, _ = w.Write([]byte("[]"))
		return true
	}
	s := sitetest.GitlabSite(t, g, sitetest.GitlabAt(t, g, "cache_for 1h"))
	s.Get(sitetest.Auth, sitetest.Basic("ci", secret)).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	s.Get(sitetest.Auth, sitetest.Basic("ci", secret)).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	s.Get(sitetest.Auth+"&scope=repository:acme"+directory.Infix+"alpine:pull", sitetest.Basic("ci", secret)).Expect(t, http.StatusOK, "")
	s.Get(sitetest.Auth, sitetest.Basic("ci", secret)).Expect(t, http.StatusOK, "") // it is known from the request before
	if n := g.Asked("/api/v4/groups"); n < 1 {
		t.Error("got no request of the list of groups, want one")
	}
}
