package login

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabtest"
)

// TestGitLabOutage checks that during an outage of GitLab remembered answers
// are used for the grace period, everything else is denied, and no answer says
// that a password is wrong.
func TestGitLabOutage(t *testing.T) {
	for name, fault := range sitetest.GitlabFaults {
		t.Run(name, func(t *testing.T) {
			g, alice, bob := gitlabtest.NewAcme(t)
			s := sitetest.GitlabSite(t, g, sitetest.GitlabAt(t, g, sitetest.ShortCacheFor, "grace 1m"))
			a := sitetest.Bearer(s.TokenFor("alice", alice))
			s.ExpectPull("acme", 200, a)
			s.ExpectPull("none", 403, a)
			g.Change(func() { g.Fault = fault })
			asked := g.Asked("/")
			sitetest.Eventually(t, "GitLab is asked in vain", func() bool {
				s.ExpectPull("acme", 200, a)
				s.ExpectPull("none", 403, a)
				return g.Asked("/") > asked
			})
			s.ExpectPull("acme", 200, a)
			s.Get(sitetest.Auth, sitetest.Basic("alice", alice)).Expect(t, http.StatusOK, "")
			s.Get(sitetest.Auth, sitetest.Basic("bob", bob)).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE").Has(t, "Retry-After", "10").Has(t, "WWW-Authenticate", "")
			s.ExpectPull("others", 503, a)
			s.ExpectPull("unknown", 503, a)
			g.Change(func() { g.Fault = nil })
			sitetest.Eventually(t, "GitLab is asked again", func() bool {
				return s.Get(sitetest.Auth, sitetest.Basic("bob", bob)).StatusCode == http.StatusOK && s.Get(sitetest.ManifestPath("unknown", "alpine", "3.20"), a).StatusCode == http.StatusForbidden
			})
		})
	}
}

// TestGitLabGraceEnds checks that no answer is used for longer than the grace
// period.
func TestGitLabGraceEnds(t *testing.T) {
	g, alice, _ := gitlabtest.NewAcme(t)
	s := sitetest.GitlabSite(t, g, sitetest.GitlabAt(t, g, sitetest.ShortCacheFor, "grace 1s"))
	start := time.Now()
	a := sitetest.Bearer(s.TokenFor("alice", alice))
	s.ExpectPull("acme", 200, a)
	g.Change(func() { g.Fault = sitetest.GitlabFaults["503"] })
	over := time.Now().Add(time.Second)
	sitetest.Eventually(t, "the grace ends", func() bool {
		late, got := time.Now().After(over), s.Get(sitetest.ManifestPath("acme", "alpine", "3.20"), a)
		if late {
			got.Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
		}
		return got.StatusCode == http.StatusServiceUnavailable
	})
	if took := time.Since(start); took < time.Second {
		t.Errorf("the grace ended after %v, want at least 1s", took)
	}
	s.Get(sitetest.Auth, sitetest.Basic("alice", alice)).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	if !strings.Contains(s.Logs(), "asking GitLab for user 24: status 503") {
		t.Error("the log lacks the status of GitLab")
	}
}

// TestGitLabReloadDuringOutage checks that remembered answers survive a reload,
// unless the instance or the transport changes.
func TestGitLabReloadDuringOutage(t *testing.T) {
	g, alice, _ := gitlabtest.NewAcme(t)
	s := sitetest.GitlabSite(t, g, sitetest.GitlabAt(t, g, sitetest.ShortCacheFor, "members_only off"))
	a := sitetest.Bearer(s.TokenFor("alice", alice))
	s.ExpectPull("open", 200, a)
	g.Change(func() { g.Fault = sitetest.GitlabFaults["503"] })
	s.Load(sitetest.GitlabAt(t, g, sitetest.ShortCacheFor, "members_only off"), "private_groups on")
	s.Get("/v2/", a).Expect(t, http.StatusOK, "")
	s.Load(sitetest.GitlabAt(t, g, sitetest.ShortCacheFor, "members_only off", "transport http"), "private_groups on")
	s.Get("/v2/", a).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	g.Change(func() { g.Fault = nil })
	sitetest.Eventually(t, "GitLab is asked through another transport", func() bool { return s.Get("/v2/", a).StatusCode == http.StatusOK })
}

// TestGitLabRedirects checks that no token is sent to the target of a redirect
// by GitLab.
func TestGitLabRedirects(t *testing.T) {
	g, alice, _ := gitlabtest.NewAcme(t)
	thief := gitlabtest.New(t)
	for name, where := range map[string]string{"elsewhere": thief.URL(), "here": ""} {
		s := sitetest.GitlabSite(t, g, sitetest.GitlabAt(t, g, sitetest.ShortCacheFor))
		g.Change(func() {
			g.Fault = func(w http.ResponseWriter, r *http.Request) bool {
				http.Redirect(w, r, where+r.URL.Path, http.StatusTemporaryRedirect)
				return true
			}
		})
		asked := g.Asked("/")
		s.Get(sitetest.Auth, sitetest.Basic("alice", alice)).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
		if thief.Asked("/") != 0 || g.Asked("/") != asked+1 {
			t.Errorf("%s: got %d requests at the target and %d at GitLab, want none and 1", name, thief.Asked("/"), g.Asked("/")-asked)
		}
		if !strings.Contains(s.Logs(), "it redirects") {
			t.Error("the log lacks the redirect")
		}
		s.Stop()
	}
}

// TestGitLabServiceToken checks that a service token that GitLab refuses denies
// access, and that the log says so.
func TestGitLabServiceToken(t *testing.T) {
	g, alice, _ := gitlabtest.NewAcme(t)
	line := sitetest.GitlabAt(t, g, sitetest.ShortCacheFor)
	t.Setenv("GITLAB_TOKEN", "glpat-old-service-token-that-must-not-leak")
	s := sitetest.GitlabSite(t, g, line)
	s.AddSecrets("glpat-old-service-token")
	s.Get(sitetest.Auth, sitetest.Basic("alice", alice)).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	if !strings.Contains(s.Logs(), "refuses the service token") {
		t.Error("the log lacks the refused service token")
	}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(gitlabtest.ServiceToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Load(strings.Replace(line, "{env.GITLAB_TOKEN}", "{file."+file+"}", 1))
	s.Get(sitetest.Auth, sitetest.Basic("alice", alice)).Expect(t, http.StatusOK, "")
	for wrong, line := range map[string]string{
		"is empty, or its file cannot be read": strings.Replace(line, "GITLAB_TOKEN", "GITLAB_TOKEN_THAT_IS_NOT_SET", 1),
		"invalid URL":                          strings.Replace(line, g.URL(), "{env.GITLAB_TOKEN}", 1),
		"URL: ":                                strings.Replace(line, g.URL(), "{env.GITLAB_URL_THAT_IS_NOT_SET}", 1),
		"shorter than cache_for":               "directory gitlab " + g.URL() + " {\n token {env.GITLAB_TOKEN}\n cache_for 1h\n grace 59m\n}",
	} {
		if err := s.TryLoad(line); err == nil || !strings.Contains(err.Error(), wrong) {
			t.Errorf("got %v, want %q", err, wrong)
		}
	}
}
