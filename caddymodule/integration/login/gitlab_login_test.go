package login

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabtest"
)

// TestGitLabLogins checks that each kind of credential is accepted only with
// its user names, and that nothing that may be a password is sent to GitLab.
func TestGitLabLogins(t *testing.T) {
	g, alice, _ := gitlabtest.NewAcme(t)
	token := func(id int64, user int64, name string, expires string, scopes ...string) string {
		secret := "glpat-" + name + "-secret-that-must-not-leak"
		g.Tokens[secret] = &gitlabtest.Token{ID: id, User: user, Name: name, Scopes: scopes, Expires: expires}
		return secret
	}
	g.Users[26] = &gitlabtest.User{Name: "group_1_bot_4f2a", State: "active", Bot: true}
	g.Users[27] = &gitlabtest.User{Name: "mallory", State: "blocked"}
	g.Groups[1].Members[26] = &gitlabtest.Member{Level: 20}
	g.Groups[1].Deploy[12] = &gitlabtest.DeployToken{Name: "weak", Secret: "gldt-weak-secret-that-must-not-leak", Scopes: []string{"read_package_registry"}}
	job := "glcbt-job-secret-that-must-not-leak"
	g.Jobs[job] = &gitlabtest.Job{ID: 8, Project: 70, User: 24, Status: "running"}
	s := sitetest.GitlabSite(t, g, sitetest.GitlabAt(t, g, "cache_for 1m"))
	for _, row := range []struct {
		name, secret string
		status       int
	}{
		{"alice", alice, 200}, {"ALICE", alice, 200}, {"bob", alice, 401}, {"gitlab-ci-token", alice, 401}, {"cli", alice, 401},
		{"alice", alice + "x", 401},
		{"alice", token(31, 24, "registry", "", "read_registry", "write_registry"), 200},
		{"alice", token(32, 24, "virtual", "2999-01-01", "read_registry", "read_virtual_registry"), 200},
		{"alice", token(33, 24, "weak", "", "read_api", "read_registry"), 401},
		{"alice", token(34, 24, "old", "2020-01-01", "api"), 401}, // even though GitLab reports it as active
		{"group_1_bot_4f2a", token(35, 26, "deployer", "", "api"), 200}, {"deployer", token(35, 26, "deployer", "", "api"), 200},
		{"alice", token(35, 26, "deployer", "", "api"), 401},
		{"mallory", token(36, 27, "blocked", "", "api"), 401},
		{"gitlab-ci-token", job, 200}, {"alice", job, 401},
		{"weak", "gldt-weak-secret-that-must-not-leak", 401},
		{"alice", "gldt-none-secret-that-must-not-leak", 401},
	} {
		if a := s.Get("/jwt/auth", sitetest.Form(sitetest.LoginForm(row.name, row.secret))); a.StatusCode != row.status {
			t.Errorf("%s with %s: got %d, want %d", row.name, row.secret, a.StatusCode, row.status)
		}
	}
	asked := g.Asked("/")
	for _, password := range []string{"hunter2", "a-password-of-which-nobody-can-tell-that-must-not-leak", "glpat-with a space, so it is a password-that-must-not-leak", "glpat-short", "glrt-a-runners-token-that-must-not-leak"} {
		s.Get(sitetest.Auth, sitetest.Basic("alice", password)).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	}
	if n := g.Asked("/"); n != asked {
		t.Errorf("got %d questions to GitLab about passwords, want none", n-asked)
	}
	if g.Saw("password-that-must-not-leak") {
		t.Error("GitLab got a password, want none")
	}
	for _, reason := range []string{"lacks a required scope", "another user", "is blocked", "unknown account"} {
		if !strings.Contains(s.Logs(), reason) {
			t.Errorf("the log does not say %q", reason)
		}
	}
}

// TestGitLabDeployTokens checks that a deploy token pulls only from its group,
// the subgroups and public groups, whatever its name is.
func TestGitLabDeployTokens(t *testing.T) {
	g, _, _ := gitlabtest.NewAcme(t)
	scopes := []string{"read_registry", "read_virtual_registry"}
	secret := func(name string) string { return "gldt-" + name + "-secret-that-must-not-leak" }
	g.Groups[1].Deploy[11] = &gitlabtest.DeployToken{Name: "alice", Secret: secret("parent"), Scopes: scopes}
	g.Groups[2].Deploy[12] = &gitlabtest.DeployToken{Name: "gitlab+deploy-token-12", Secret: secret("child"), Scopes: append(scopes, "write_registry")}
	g.Groups[3].Deploy[13] = &gitlabtest.DeployToken{Name: "other", Secret: secret("other"), Scopes: []string{"read_virtual_registry", "write_virtual_registry"}}
	for id := int64(100); id < 250; id++ { // more than a page of groups before the hidden one
		g.AddGroup(id, "crowd-"+strings.Repeat("x", int(id-99)), "private")
	}
	g.AddGroup(300, "Late", "private")
	g.Groups[300].Deploy[14] = &gitlabtest.DeployToken{Name: "late", Secret: secret("late"), Scopes: scopes}
	g.AddGroup(301, "unseen", "private")
	g.Groups[301].Deploy[15] = &gitlabtest.DeployToken{Name: "unseen", Secret: secret("unseen"), Scopes: scopes}
	g.Groups[301].Hidden = true
	s := sitetest.GitlabSite(t, g, sitetest.GitlabAt(t, g, "cache_for 1m", "members_only off"), sitetest.Private("team", "alice"), sitetest.Visible("tools", directory.Internal))
	parent, child := sitetest.Bearer(s.TokenFor("alice", secret("parent"))), sitetest.Bearer(s.TokenFor("gitlab+deploy-token-12", secret("child")))
	for group, status := range map[string][2]int{
		"acme": {200, 403}, "acme/sub": {200, 200}, "others": {403, 403}, "inner": {403, 403}, "tools": {403, 403}, "team": {403, 403}, "open": {200, 200}, "none": {403, 403},
	} {
		s.ExpectPull(group, status[0], parent)
		s.ExpectPull(group, status[1], child)
	}
	late := sitetest.Bearer(s.TokenFor("late", secret("late")))
	s.ExpectPull("late", 200, late)
	s.ExpectPull("acme", 403, late)
	asked := g.Asked("/api/v4/groups/{group}/deploy_tokens")
	s.Get(sitetest.Auth, sitetest.Basic("unseen", secret("unseen"))).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	s.Get(sitetest.Auth+"&scope="+url.QueryEscape("repository:acme/dependency_proxy/containers/alpine:pull"), sitetest.Basic("unseen", secret("unseen"))).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	if n := g.Asked("/api/v4/groups/{group}/deploy_tokens") - asked; n != 157 {
		t.Errorf("got %d questions about a deploy token of no visible group, want 157: one for each group, once, and one for the group that a request names", n)
	}
	if !strings.Contains(s.Logs(), "no group with this deploy token") {
		t.Error("the log lacks \"no group with this deploy token\"")
	}
	// A user of the same name is another account.
	s.Load(sitetest.GitlabAt(t, g, "cache_for 1m", "members_only off"), sitetest.Private("team", "alice"), sitetest.Visible("tools", directory.Internal), "blocked alice")
	s.Get("/v2/", parent).Expect(t, http.StatusOK, "")
	// A login that names a group needs no search.
	s.Load(sitetest.GitlabAt(t, g, "cache_for 2m", "members_only off"), "token {\n lifetime 5m\n}")
	asked = g.Asked("/api/v4/groups")
	s.Get(sitetest.Auth+"&scope="+url.QueryEscape("repository:acme/sub/dependency_proxy/containers/alpine:pull"), sitetest.Basic("alice", secret("parent"))).Expect(t, http.StatusOK, "")
	if n := g.Asked("/api/v4/groups") - asked; n != 6 {
		t.Errorf("got %d questions to GitLab, want 6: two for each group and two about the token", n)
	}
	// The user name proves nothing, because the creator of a token chooses
	// it.
	g.Change(func() {
		g.Groups[3].Deploy[15] = &gitlabtest.DeployToken{Name: "gitlab+deploy-token-12", Secret: secret("forged"), Scopes: append(scopes, "write_registry")}
	})
	forged := s.TokenFor("gitlab+deploy-token-12", secret("forged"))
	s.Get(sitetest.ManifestPath("acme/sub", "alpine", "3.20"), sitetest.Bearer(forged)).Expect(t, http.StatusForbidden, "DENIED")
	// Without GitLab's registry, only the name is left to compare.
	g.Change(func() { g.NoRegistry = true })
	s.Load(sitetest.GitlabAt(t, g, "cache_for 3m", "members_only off"), "token {\n lifetime 5m\n}")
	for _, name := range []string{"child", "forged"} {
		s.Get(sitetest.Auth, sitetest.Basic("gitlab+deploy-token-12", secret(name))).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	}
	s.Get(sitetest.Auth, sitetest.Basic("other", secret("other"))).Expect(t, http.StatusServiceUnavailable, "UNAVAILABLE")
	g.Change(func() { g.Admin, g.Maintainer, g.NoRegistry = false, false, false })
	s.Load(sitetest.GitlabAt(t, g, "cache_for 4m", "members_only off"), "token {\n lifetime 5m\n}")
	s.Get(sitetest.Auth, sitetest.Basic("gitlab+deploy-token-12", secret("child"))).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
}

// TestGitLabSeveralInstances checks that a token that one instance refuses is
// tried at the next one, unless it has the prefix of the first.
func TestGitLabSeveralInstances(t *testing.T) {
	g, alice, _ := gitlabtest.NewAcme(t)
	other := gitlabtest.New(t)
	zoe := other.AddUser(1, "zoe")
	g.Tokens["corp-token-secret-that-must-not-leak"] = &gitlabtest.Token{ID: 9, User: 24, Scopes: []string{"api"}}
	s := sitetest.GitlabSite(t, g, sitetest.Users("carol"), sitetest.GitlabAt(t, g, "token_prefix corp-"), sitetest.GitlabAt(t, other, "name gitlab-2"), "directory elsewhere")
	s.TokenFor("alice", alice)
	s.TokenFor("zoe", zoe)
	s.TokenFor("alice", "corp-token-secret-that-must-not-leak")
	asked := other.Asked("/")
	sitetest.ElsewhereAsked.Store(0)
	s.Get(sitetest.Auth, sitetest.Basic("alice", "corp-other-secret-that-must-not-leak")).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	if heard := sitetest.ElsewhereHeard.Load().(string); other.Asked("/") != asked || !strings.HasPrefix(heard, "nobody-") || strings.Contains(heard, "corp-other") {
		t.Error("another directory got a token with the prefix of the first instance, want it to stay there")
	}
	s.Get(sitetest.Auth, sitetest.Basic("alice", "glpat-nobodys-secret-that-must-not-leak")).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	if other.Asked("/") != asked+1 || sitetest.ElsewhereAsked.Load() != 2 {
		t.Errorf("got %d questions to the next instance and %d to the directory behind, want 1 and 2", other.Asked("/")-asked, sitetest.ElsewhereAsked.Load())
	}
	// A token of another user is refused with the name of a configured
	// account.
	s.Get(sitetest.Auth, sitetest.Basic("carol", alice)).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	s.Get(sitetest.Auth, sitetest.Basic("carol", "corp-token-secret-that-must-not-leak")).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	s.Load(sitetest.GitlabAt(t, g), sitetest.GitlabAt(t, other, "name gitlab-2"))
	s.Get(sitetest.Auth, sitetest.Basic("alice", "glpat-nobodys-secret-that-must-not-leak")).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	if want := `"reason":"unknown account: directory gitlab: GitLab refuses the token; directory gitlab-2: GitLab refuses the token"`; !strings.Contains(s.Logs(), want) {
		t.Errorf("the log lacks %q", want)
	}
}

// TestGitLabOtherInstance checks that IDs and names of one instance do not
// apply at another.
func TestGitLabOtherInstance(t *testing.T) {
	g, alice, _ := gitlabtest.NewAcme(t)
	other := gitlabtest.New(t)
	other.AddUser(24, "alice") // with the same ID as the other alice
	s := sitetest.GitlabSite(t, g, sitetest.GitlabAt(t, g))
	token := s.TokenFor("alice", alice)
	s.Get("/v2/", sitetest.Bearer(token)).Expect(t, http.StatusOK, "")
	other.Tokens[alice] = &gitlabtest.Token{ID: g.Tokens[alice].ID, User: 24, Scopes: []string{"api"}}
	s.Load(sitetest.GitlabAt(t, other))
	s.Get("/v2/", sitetest.Bearer(token)).Expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
}
