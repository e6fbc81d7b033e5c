package login

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabtest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestGitLabMembersOnly checks that by default a public group at GitLab gives
// no access here, and that anonymous clients get no token and cause no
// question.
func TestGitLabMembersOnly(t *testing.T) {
	g, alice, bob := gitlabtest.NewAcme(t)
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	s := sitetest.Start(t, sitetest.GitlabAt(t, g, sitetest.ShortCacheFor), sitetest.Hub(up))
	s.AddSecrets(gitlabtest.ServiceToken, "secret-that-must-not-leak")
	a, b := sitetest.Bearer(s.TokenFor("alice", alice)), sitetest.Bearer(s.TokenFor("bob", bob))
	s.Get(sitetest.Auth).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	for _, group := range []string{"open", "inner"} {
		s.ExpectPull(group, 403, a)
		s.ExpectPull(group, 403, b)
	}
	s.ExpectPull("acme", 200, a)
	s.ExpectPull("acme/sub", 200, a)
	s.ExpectPull("acme", 403, b)
	g.Change(func() { g.Groups[5].Members[25] = &gitlabtest.Member{Level: 10} })
	sitetest.Eventually(t, "a member gets into the public group", func() bool {
		return s.Get(sitetest.ManifestPath("open", "alpine", "3.20"), b).StatusCode == http.StatusOK
	})

	// With a declared public group there are anonymous tokens; they open nothing
	// at GitLab, and it is not asked.
	s.Load(sitetest.GitlabAt(t, g, sitetest.ShortCacheFor), sitetest.Hub(up), sitetest.Visible("free", directory.Public))
	nobody := sitetest.Bearer(s.Get(sitetest.Auth).Expect(t, http.StatusOK, "").Tokens().Token)
	asked := g.Asked("/api")
	for _, group := range []string{"open", "inner", "acme", "none"} {
		s.ExpectPull(group, 403, nobody)
	}
	s.ExpectPull("free", 200, nobody)
	if n := g.Asked("/api") - asked; n != 0 {
		t.Errorf("got %d questions to GitLab about groups that anonymous callers named, want none", n)
	}
}

// TestGitLabGroupPatterns checks that only groups that match the patterns exist
// here. GitLab is not asked about others, and roles in them do not count.
func TestGitLabGroupPatterns(t *testing.T) {
	g, alice, _ := gitlabtest.NewAcme(t)
	carol := g.AddUser(26, "carol")
	g.AddGroup(6, "acme/Sub/deep", "private")
	g.AddGroup(7, "team", "private", 24)
	g.AddGroup(8, "team/one", "public")
	g.AddGroup(9, "team/one/two", "private")
	g.Change(func() {
		g.Groups[4].Members[24] = &gitlabtest.Member{Level: 50}
		g.Groups[3].Members[26] = &gitlabtest.Member{Level: 50}
	})
	scopes := []string{"read_registry", "write_registry"}
	g.Groups[1].Deploy[11] = &gitlabtest.DeployToken{Name: "in", Secret: "gldt-in-secret-that-must-not-leak", Scopes: scopes}
	g.Groups[3].Deploy[12] = &gitlabtest.DeployToken{Name: "out", Secret: "gldt-out-secret-that-must-not-leak", Scopes: scopes}
	s := sitetest.GitlabSite(t, g, sitetest.GitlabAt(t, g, "cache_for 1m", "members_only off", "groups acme/** team/*", "groups open"), sitetest.Private("others"))
	a, c := sitetest.Bearer(s.TokenFor("alice", alice)), sitetest.Bearer(s.TokenFor("carol", carol))
	nobody := sitetest.Bearer(s.Get(sitetest.Auth).Tokens().Token)
	for group, status := range map[string][2]int{
		"acme": {200, 403}, "acme/sub": {200, 403}, "acme/sub/deep": {200, 403}, "team/one": {200, 200}, "open": {200, 200},
		"team": {403, 403}, "team/one/two": {403, 403}, "inner": {403, 403}, "none": {403, 403},
	} {
		before := g.Asked("/api/v4/groups")
		s.ExpectPull(group, status[0], a)
		s.ExpectPull(group, status[1], nobody)
		if n := g.Asked("/api/v4/groups") - before; n > 0 && slices.Contains([]string{"team", "team/one/two", "inner", "none"}, group) {
			t.Errorf("got %d questions to GitLab about %s, want none", n, group)
		}
	}
	// The owner at GitLab has no role in a declared group of the same path.
	s.ExpectPull("others", 403, c)
	s.Get("/others/dependency_proxy", c).Expect(t, http.StatusForbidden, "DENIED")
	// The answer is the same as for a group that does not exist.
	got, want := s.Get(sitetest.ManifestPath("inner", "alpine", "3.20"), a), s.Get(sitetest.ManifestPath("nogrp", "alpine", "3.20"), a)
	if strings.ReplaceAll(string(got.Data), "inner", "nogrp") != string(want.Data) {
		t.Errorf("got %s, want %s", got.Data, want.Data)
	}
	s.ExpectPull("acme/sub", 200, sitetest.Bearer(s.TokenFor("in", "gldt-in-secret-that-must-not-leak")))
	s.Get(sitetest.Auth, sitetest.Basic("out", "gldt-out-secret-that-must-not-leak")).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
}

// TestGitLabGroupPatternsReload checks that each site has its own patterns, and
// that a deploy token refused because of them is accepted when they change.
func TestGitLabGroupPatternsReload(t *testing.T) {
	g, _, _ := gitlabtest.NewAcme(t)
	g.Groups[3].Deploy[12] = &gitlabtest.DeployToken{Name: "out", Secret: "gldt-out-secret-that-must-not-leak", Scopes: []string{"read_registry", "write_registry"}}
	out := sitetest.Basic("out", "gldt-out-secret-that-must-not-leak")
	s := sitetest.GitlabSite(t, g, sitetest.GitlabAt(t, g, "cache_for 1m", "groups acme/**"))
	s.Get(sitetest.Auth, out).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", sitetest.Random(1, 100))
	s.Load(sitetest.GitlabAt(t, g, "cache_for 1m", "groups acme/** others"), sitetest.Hub(up))
	s.ExpectPull("others", 200, out)
	s.Load(sitetest.GitlabAt(t, g, "cache_for 1m", "groups acme/**"), sitetest.Hub(up))
	s.Get(sitetest.Auth, out).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
}

// TestGitLabGroupQuestionsAreLimited checks that neither anonymous clients nor
// one account use up the questions about groups of the others.
func TestGitLabGroupQuestionsAreLimited(t *testing.T) {
	g, alice, bob := gitlabtest.NewAcme(t)
	for i := range 40 {
		g.AddGroup(int64(100+i), fmt.Sprintf("team-%d", i), "private", 24)
	}
	s := sitetest.GitlabSite(t, g, sitetest.GitlabAt(t, g, "cache_for 1m", "members_only off"))
	a, b, nobody := sitetest.Bearer(s.TokenFor("alice", alice)), sitetest.Bearer(s.TokenFor("bob", bob)), sitetest.Bearer(s.Get(sitetest.Auth).Tokens().Token)
	storm := func(name string, who sitetest.RequestOption, questions int) {
		t.Helper()
		before, refused := g.Asked("/api/v4/groups/{group}"), 0
		start := time.Now()
		for i := range 400 {
			if s.Get(sitetest.ManifestPath(fmt.Sprintf("invented-%s-%d", name, i), "alpine", "3.20"), who).StatusCode == http.StatusServiceUnavailable {
				refused++
			}
		}
		most := questions + int(time.Since(start)/time.Second+1)*2
		if asked := g.Asked("/api/v4/groups/{group}") - before; asked > most || asked+refused != 400 {
			t.Errorf("%s: got %d questions and %d refusals for 400 invented groups, want at most %d questions and a refusal for each other group", name, asked, refused, most)
		}
	}
	storm("anonymous", nobody, 30)
	storm("bob", b, 30)
	for i := range 30 - 2 {
		s.ExpectPull(fmt.Sprintf("team-%d", i), 200, a)
	}
	s.ExpectPull("acme", 200, a)
}

// TestGitLabPublicLoginWarning checks that the log and explain warn that users
// of GitLab can open an upstream login to everybody if members_only is off.
func TestGitLabPublicLoginWarning(t *testing.T) {
	g, _, _ := gitlabtest.NewAcme(t)
	up := registrytest.New(t, registrytest.WithToken("hub", sitetest.UpstreamPassword))
	login := sitetest.HubCredentials(t)
	for line, want := range map[string]map[string]string{
		"":                 {"open": "", "acme": ""},
		"members_only off": {"open": "the group is public", "acme": "the group can become public in the directory gitlab"},
	} {
		s := sitetest.StartWithAdmin(t, sitetest.GitlabAt(t, g, "cache_for 1m", line), sitetest.Hub(up, login))
		s.AddSecrets(gitlabtest.ServiceToken)
		if got := strings.Contains(s.Logs(), "groups that are public in a directory: anybody can pull"); got != (line != "") {
			t.Errorf("%q: got a warning in the log: %v, want %v", line, got, line != "")
		}
		for group, text := range want {
			out := s.CommandOutput("explain", "--pull", group+"/alpine")
			if got := strings.Contains(out, "warning:"); got != (text != "") || !strings.Contains(out, text) {
				t.Errorf("%q, %s: explain prints %s, want %q", line, group, out, text)
			}
		}
		s.Stop()
	}
}
