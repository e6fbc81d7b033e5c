package caddymodule

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabtest"
)

// respond returns a fault that answers each request with the given response.
func respond(code int, mediaType, body string) func(w http.ResponseWriter, r *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Type", mediaType)
		w.WriteHeader(code)
		_, _ = io.WriteString(w, body)
		return true
	}
}

// TestGitLabOutage checks that during an outage of GitLab remembered answers
// are used for the grace period, everything else is denied, and no answer says
// that a password is wrong.
func TestGitLabOutage(t *testing.T) {
	for name, fault := range gitlabFaults {
		t.Run(name, func(t *testing.T) {
			g, alice, bob := gitlabtest.NewAcme(t)
			s := gitlabSite(t, g, gitlabAt(t, g, shortCacheFor, "grace 1m"))
			a := bearer(s.tokenFor("alice", alice))
			s.expectPull("acme", 200, a)
			s.expectPull("none", 403, a)
			g.Change(func() { g.Fault = fault })
			asked := g.Asked("/")
			eventually(t, "GitLab is asked in vain", func() bool {
				s.expectPull("acme", 200, a)
				s.expectPull("none", 403, a)
				return g.Asked("/") > asked
			})
			s.expectPull("acme", 200, a)
			s.get(auth, basic("alice", alice)).expect(t, http.StatusOK, "")
			s.get(auth, basic("bob", bob)).expect(t, http.StatusServiceUnavailable, "UNAVAILABLE").has(t, "Retry-After", "10").has(t, "WWW-Authenticate", "")
			s.expectPull("others", 503, a)
			s.expectPull("unknown", 503, a)
			g.Change(func() { g.Fault = nil })
			eventually(t, "GitLab is asked again", func() bool {
				return s.get(auth, basic("bob", bob)).StatusCode == http.StatusOK && s.get(manifestPath("unknown", "alpine", "3.20"), a).StatusCode == http.StatusForbidden
			})
		})
	}
}

// TestGitLabGraceEnds checks that no answer is used for longer than the grace
// period.
func TestGitLabGraceEnds(t *testing.T) {
	g, alice, _ := gitlabtest.NewAcme(t)
	s := gitlabSite(t, g, gitlabAt(t, g, shortCacheFor, "grace 1s"))
	start := time.Now()
	a := bearer(s.tokenFor("alice", alice))
	s.expectPull("acme", 200, a)
	g.Change(func() { g.Fault = gitlabFaults["503"] })
	over := time.Now().Add(time.Second)
	eventually(t, "the grace ends", func() bool {
		late, got := time.Now().After(over), s.get(manifestPath("acme", "alpine", "3.20"), a)
		if late {
			got.expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
		}
		return got.StatusCode == http.StatusServiceUnavailable
	})
	if took := time.Since(start); took < time.Second {
		t.Errorf("the grace ended after %v, want at least 1s", took)
	}
	s.get(auth, basic("alice", alice)).expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	if !strings.Contains(s.logs(), "asking GitLab for user 24: status 503") {
		t.Error("the log lacks the status of GitLab")
	}
}

// TestGitLabReloadDuringOutage checks that remembered answers survive a reload,
// unless the instance or the transport changes.
func TestGitLabReloadDuringOutage(t *testing.T) {
	g, alice, _ := gitlabtest.NewAcme(t)
	s := gitlabSite(t, g, gitlabAt(t, g, shortCacheFor, "members_only off"))
	a := bearer(s.tokenFor("alice", alice))
	s.expectPull("open", 200, a)
	g.Change(func() { g.Fault = gitlabFaults["503"] })
	s.load(gitlabAt(t, g, shortCacheFor, "members_only off"), "private_groups on")
	s.get("/v2/", a).expect(t, http.StatusOK, "")
	s.load(gitlabAt(t, g, shortCacheFor, "members_only off", "transport http"), "private_groups on")
	s.get("/v2/", a).expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	g.Change(func() { g.Fault = nil })
	eventually(t, "GitLab is asked through another transport", func() bool { return s.get("/v2/", a).StatusCode == http.StatusOK })
}

// TestGitLabRedirects checks that no token is sent to the target of a redirect
// by GitLab.
func TestGitLabRedirects(t *testing.T) {
	g, alice, _ := gitlabtest.NewAcme(t)
	thief := gitlabtest.New(t)
	for name, where := range map[string]string{"elsewhere": thief.URL(), "here": ""} {
		s := gitlabSite(t, g, gitlabAt(t, g, shortCacheFor))
		g.Change(func() {
			g.Fault = func(w http.ResponseWriter, r *http.Request) bool {
				http.Redirect(w, r, where+r.URL.Path, http.StatusTemporaryRedirect)
				return true
			}
		})
		asked := g.Asked("/")
		s.get(auth, basic("alice", alice)).expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
		if thief.Asked("/") != 0 || g.Asked("/") != asked+1 {
			t.Errorf("%s: got %d requests at the target and %d at GitLab, want none and 1", name, thief.Asked("/"), g.Asked("/")-asked)
		}
		if !strings.Contains(s.logs(), "it redirects") {
			t.Error("the log lacks the redirect")
		}
		s.stop()
	}
}

// TestGitLabServiceToken checks that a service token that GitLab refuses denies
// access, and that the log says so.
func TestGitLabServiceToken(t *testing.T) {
	g, alice, _ := gitlabtest.NewAcme(t)
	line := gitlabAt(t, g, shortCacheFor)
	t.Setenv("GITLAB_TOKEN", "glpat-old-service-token-that-must-not-leak")
	s := gitlabSite(t, g, line)
	s.addSecrets("glpat-old-service-token")
	s.get(auth, basic("alice", alice)).expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	if !strings.Contains(s.logs(), "refuses the service token") {
		t.Error("the log lacks the refused service token")
	}
	file := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(file, []byte(gitlabtest.ServiceToken+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.load(strings.Replace(line, "{env.GITLAB_TOKEN}", "{file."+file+"}", 1))
	s.get(auth, basic("alice", alice)).expect(t, http.StatusOK, "")
	for wrong, line := range map[string]string{
		"is empty, or its file cannot be read": strings.Replace(line, "GITLAB_TOKEN", "GITLAB_TOKEN_THAT_IS_NOT_SET", 1),
		"invalid URL":                          strings.Replace(line, g.URL(), "{env.GITLAB_TOKEN}", 1),
		"URL: ":                                strings.Replace(line, g.URL(), "{env.GITLAB_URL_THAT_IS_NOT_SET}", 1),
		"shorter than cache_for":               "directory gitlab " + g.URL() + " {\n token {env.GITLAB_TOKEN}\n cache_for 1h\n grace 59m\n}",
	} {
		if err := s.tryLoad(line); err == nil || !strings.Contains(err.Error(), wrong) {
			t.Errorf("got %v, want %q", err, wrong)
		}
	}
}
