package login

import (
	"net/http"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabtest"
)

// TestGitLabGroups checks that membership and visibility are those at GitLab,
// including subgroups.
func TestGitLabGroups(t *testing.T) {
	g, alice, bob := gitlabtest.NewAcme(t)
	s := sitetest.GitlabSite(t, g, sitetest.GitlabAt(t, g, "cache_for 1m", "members_only off"))
	a, b, nobody := sitetest.Bearer(s.TokenFor("alice", alice)), sitetest.Bearer(s.TokenFor("Bob", bob)), sitetest.Bearer(s.Get(sitetest.Auth).Tokens().Token)
	for _, row := range []struct {
		group               string
		alice, bob, whoever int
	}{
		{"acme", 200, 403, 403}, {"acme/sub", 200, 403, 403}, {"others", 403, 403, 403}, {"inner", 200, 200, 403},
		{"open", 200, 200, 200}, {"none", 403, 403, 403}, {"acme/none", 403, 403, 403}, {"1", 403, 403, 403},
	} {
		s.ExpectPull(row.group, row.alice, a)
		s.ExpectPull(row.group, row.bob, b)
		s.ExpectPull(row.group, row.whoever, nobody)
	}
	// Each was requested once: users and tokens by two logins, eight groups,
	// and
	// two memberships in each of the four existing groups that are not
	// public.
	for path, times := range map[string]int{"/api/v4/users": 2, "/api/v4/personal_access_tokens/{id}": 2, "/api/v4/groups/{group}": 8 + 8, "/api/v4/groups/{group}/members": 8} {
		if n := g.Asked(path); n != times {
			t.Errorf("%s: got %d questions, want %d", path, n, times)
		}
	}
	s.ExpectPull("acme", 200, sitetest.Basic("alice", alice))
	if n := g.Asked("/api/v4/personal_access_tokens/self"); n != 2 {
		t.Errorf("got %d questions about a remembered login, want 2 as before", n)
	}
	for _, line := range []string{"", "members_only", "members_only on"} {
		s.Load(sitetest.GitlabAt(t, g, line), "token {\n lifetime 5m\n}")
		s.ExpectPull("open", 403, b)
		s.ExpectPull("inner", 403, b)
		s.ExpectPull("open", 403, nobody)
		s.Get(sitetest.Auth).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	}
}

// TestGitLabChanges checks that changes at GitLab apply as soon as remembered
// answers are no longer fresh, even to tokens issued before.
func TestGitLabChanges(t *testing.T) {
	g, alice, bob := gitlabtest.NewAcme(t)
	g.Jobs["glcbt-64_job-secret-that-must-not-leak"] = &gitlabtest.Job{ID: 7, Project: 70, User: 24, Status: "running"}
	g.Groups[1].Deploy[11] = &gitlabtest.DeployToken{Name: "puller", Secret: "gldt-deploy-secret-that-must-not-leak", Scopes: []string{"read_registry", "write_registry"}}
	s := sitetest.GitlabSite(t, g, sitetest.GitlabAt(t, g, sitetest.ShortCacheFor, "members_only off"))
	a, b := sitetest.Bearer(s.TokenFor("alice", alice)), sitetest.Bearer(s.TokenFor("bob", bob))
	job := sitetest.Bearer(s.TokenFor("gitlab-ci-token", "glcbt-64_job-secret-that-must-not-leak"))
	deploy := sitetest.Bearer(s.TokenFor("puller", "gldt-deploy-secret-that-must-not-leak"))
	group := g.Groups[1]
	for name, row := range map[string]struct {
		who            sitetest.RequestOption
		group          string
		change, undo   func()
		before, during int
	}{
		"a member is removed":   {a, "acme/sub", func() { delete(group.Members, 24) }, func() { group.Members[24] = &gitlabtest.Member{Level: 10} }, 200, 403},
		"a member is added":     {b, "acme", func() { group.Members[25] = &gitlabtest.Member{Level: 10} }, func() { delete(group.Members, 25) }, 403, 200},
		"minimal access":        {a, "acme", func() { group.Members[24].Level = 5 }, func() { group.Members[24].Level = 30 }, 200, 403},
		"a membership expires":  {a, "acme", func() { group.Members[24].Expires = "2020-01-01" }, func() { group.Members[24].Expires = "" }, 200, 403},
		"a membership waits":    {a, "acme", func() { group.Members[24].State = "awaiting" }, func() { group.Members[24].State = "active" }, 200, 403},
		"a group is private":    {b, "open", func() { g.Groups[5].Visibility = "private" }, func() { g.Groups[5].Visibility = "public" }, 200, 403},
		"a group is gone":       {a, "acme", func() { group.Hidden = true }, func() { group.Hidden = false }, 200, 403},
		"a token is revoked":    {a, "acme", func() { g.Tokens[alice].Revoked = true }, func() { g.Tokens[alice].Revoked = false }, 200, 401},
		"a token expires":       {a, "acme", func() { g.Tokens[alice].Revoked = true }, func() { g.Tokens[alice].Revoked = false }, 200, 401},
		"a user is blocked":     {a, "acme", func() { g.Users[24].State = "blocked" }, func() { g.Users[24].State = "active" }, 200, 401},
		"a user is deactivated": {b, "open", func() { g.Users[25].State = "deactivated" }, func() { g.Users[25].State = "active" }, 200, 401},
		"a user is renamed":     {a, "acme", func() { g.Users[24].Name = "eve" }, func() { g.Users[24].Name = "alice" }, 200, 401},
		"the user of a job":     {job, "acme", func() { g.Users[24].State = "banned" }, func() { g.Users[24].State = "active" }, 200, 401},
		"a deploy token's end":  {deploy, "acme/sub", func() { group.Deploy[11].Revoked = true }, func() { group.Deploy[11].Revoked = false }, 200, 401},
		"a deploy token's date": {deploy, "acme", func() { group.Deploy[11].Expired = true }, func() { group.Deploy[11].Expired = false }, 200, 401},
	} {
		status := func(want int) {
			t.Helper()
			sitetest.Eventually(t, name, func() bool {
				return s.Get(sitetest.ManifestPath(row.group, "alpine", "3.20"), row.who).StatusCode == want
			})
		}
		status(row.before)
		g.Change(row.change)
		status(row.during)
		g.Change(row.undo)
		status(row.before)
	}
	g.Change(func() { g.Jobs["glcbt-64_job-secret-that-must-not-leak"].Status = "success" })
	sitetest.Eventually(t, "a job's token ends with the job", func() bool {
		return s.Get("/v2/", job).StatusCode == http.StatusUnauthorized
	})
	s.Get(sitetest.Auth, sitetest.Basic("gitlab-ci-token", "glcbt-64_job-secret-that-must-not-leak")).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
}
