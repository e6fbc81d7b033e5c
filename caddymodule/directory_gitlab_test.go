package caddymodule

import (
	"encoding/base64"
	"errors"
	"io/fs"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabapi"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabtest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// gitlabAt is the directive for an instance.
func gitlabAt(t *testing.T, g *gitlabtest.GitLab, lines ...string) string {
	t.Setenv("GITLAB_TOKEN", gitlabtest.ServiceToken)
	return "directory gitlab " + g.URL() + " {\n token {env.GITLAB_TOKEN}\n" + strings.Join(lines, "\n") + "\n}\n"
}

// quickly makes changes at GitLab come through at once, as tests go.
const quickly = "cache_for 20ms"

// newGitLab is an instance with alice, a developer of acme, and bob, who is
// nobody's member. The groups are acme and acme/Sub, private, others, private,
// inner, internal, and open, public.
func newGitLab(t *testing.T) (g *gitlabtest.GitLab, alice, bob string) {
	g = gitlabtest.New(t)
	alice, bob = g.AddUser(24, "alice"), g.AddUser(25, "bob")
	g.AddGroup(1, "acme", "private", 24)
	g.AddGroup(2, "acme/Sub", "private")
	g.AddGroup(3, "others", "private")
	g.AddGroup(4, "inner", "internal")
	g.AddGroup(5, "open", "public")
	return g, alice, bob
}

// gitlabSite is a site that only GitLab's users log in to.
func gitlabSite(t *testing.T, g *gitlabtest.GitLab, lines ...string) *site {
	t.Helper()
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 100))
	s := newSite(t)
	s.secret(gitlabtest.ServiceToken, "secret-that-must-not-leak")
	s.load(append(lines, hub(up))...)
	return s
}

func basic(name, secret string) with {
	return func(r *http.Request) { r.SetBasicAuth(name, secret) }
}

// login gets a token for a GitLab credential.
func (s *site) login(name, secret string) string {
	s.t.Helper()
	s.secret(base64.StdEncoding.EncodeToString([]byte(name + ":" + secret)))
	return s.get(auth, basic(name, secret)).expect(s.t, http.StatusOK, "").tokens().Token
}

// may tells the status of a pull from each group.
func (s *site) may(group string, status int, changes ...with) {
	s.t.Helper()
	code := map[int]string{200: "", 401: "UNAUTHORIZED", 403: "DENIED", 503: "UNAVAILABLE"}[status]
	s.get(manifestPath(group, "alpine", "3.20"), changes...).expect(s.t, status, code)
}

// TestGitLabGroups: membership and visibility are GitLab's, subgroups and all.
func TestGitLabGroups(t *testing.T) {
	g, alice, bob := newGitLab(t)
	s := gitlabSite(t, g, gitlabAt(t, g, "cache_for 1m", "members_only off"))
	a, b, nobody := bearer(s.login("alice", alice)), bearer(s.login("Bob", bob)), bearer(s.get(auth).tokens().Token)
	for _, row := range []struct {
		group               string
		alice, bob, whoever int
	}{
		{"acme", 200, 403, 403}, {"acme/sub", 200, 403, 403}, {"others", 403, 403, 403}, {"inner", 200, 200, 403},
		{"open", 200, 200, 200}, {"none", 403, 403, 403}, {"acme/none", 403, 403, 403}, {"1", 403, 403, 403},
	} {
		s.may(row.group, row.alice, a)
		s.may(row.group, row.bob, b)
		s.may(row.group, row.whoever, nobody)
	}
	// Each was asked for once: users and tokens by two logins, eight groups, and
	// two memberships in each of four that are there and not public.
	for path, times := range map[string]int{"/api/v4/users": 2, "/api/v4/personal_access_tokens/{id}": 2, "/api/v4/groups/{group}": 8 + 8, "/api/v4/groups/{group}/members": 8} {
		if n := g.Asked(path); n != times {
			t.Errorf("%s was asked %d times instead of %d", path, n, times)
		}
	}
	s.may("acme", 200, basic("alice", alice))
	if n := g.Asked("/api/v4/personal_access_tokens/self"); n != 2 {
		t.Errorf("a login is not remembered: %d", n)
	}
	for _, line := range []string{"", "members_only", "members_only on"} {
		s.load(gitlabAt(t, g, line), "token {\n lifetime 5m\n}")
		s.may("open", 403, b)
		s.may("inner", 403, b)
		s.may("open", 403, nobody)
		s.get(auth).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	}
}

// TestGitLabChanges: what changes at GitLab comes through when the remembered
// answer is old, for tokens of before too.
func TestGitLabChanges(t *testing.T) {
	g, alice, bob := newGitLab(t)
	g.Jobs["glcbt-64_job-secret-that-must-not-leak"] = &gitlabtest.Job{ID: 7, Project: 70, User: 24, Status: "running"}
	g.Groups[1].Deploy[11] = &gitlabtest.DeployToken{Name: "puller", Secret: "gldt-deploy-secret-that-must-not-leak", Scopes: []string{"read_registry", "write_registry"}}
	s := gitlabSite(t, g, gitlabAt(t, g, quickly, "members_only off"))
	a, b := bearer(s.login("alice", alice)), bearer(s.login("bob", bob))
	job := bearer(s.login("gitlab-ci-token", "glcbt-64_job-secret-that-must-not-leak"))
	deploy := bearer(s.login("puller", "gldt-deploy-secret-that-must-not-leak"))
	group := g.Groups[1]
	for name, row := range map[string]struct {
		who            with
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
			eventually(t, name, func() bool {
				return s.get(manifestPath(row.group, "alpine", "3.20"), row.who).StatusCode == want
			})
		}
		status(row.before)
		g.Change(row.change)
		status(row.during)
		g.Change(row.undo)
		status(row.before)
	}
	g.Change(func() { g.Jobs["glcbt-64_job-secret-that-must-not-leak"].Status = "success" })
	eventually(t, "a job's token ends with the job", func() bool {
		return s.get("/v2/", job).StatusCode == http.StatusUnauthorized
	})
	s.get(auth, basic("gitlab-ci-token", "glcbt-64_job-secret-that-must-not-leak")).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
}

// openGitLab is the directory by itself.
func openGitLab(t testing.TB, g *gitlabtest.GitLab, prefix string) *GitLabDirectory {
	t.Setenv("GITLAB_TOKEN", gitlabtest.ServiceToken)
	d := &GitLabDirectory{URL: g.URL() + "/", Token: "{env.GITLAB_TOKEN}", TokenPrefix: prefix}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	t.Cleanup(cancel)
	if err := d.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Cleanup() })
	return d
}

// TestGitLabRoles: GitLab's access levels are our roles, the highest that flows
// down, and only a token of full scope may do more than pull.
func TestGitLabRoles(t *testing.T) {
	g, alice, _ := newGitLab(t)
	g.Tokens["glpat-weak-token-that-must-not-leak"] = &gitlabtest.Token{ID: 2, User: 24, Scopes: []string{"read_registry", "write_registry"}}
	g.Jobs["64_job-secret-that-must-not-leak"] = &gitlabtest.Job{ID: 8, Project: 70, User: 24, Status: "running"}
	d := openGitLab(t, g, "")
	ctx := t.Context()
	named, err := d.Lookup(ctx, "ALICE", "")
	if err != nil || named.Name != "alice" || named.PullOnly {
		t.Fatalf("%+v, %v", named, err)
	}
	for id, level := range []int{0, 5, 10, 15, 20, 30, 40, 50, 60} {
		user := int64(100 + id)
		g.AddUser(user, "user")
		g.Change(func() {
			g.Groups[1].Members[user] = &gitlabtest.Member{Level: level}
			g.Groups[2].Members[user] = &gitlabtest.Member{Level: 10}
		})
		want := [...]Role{NoRole, NoRole, Member, Member, Member, Member, Maintainer, Owner, Owner}[id]
		account := Account{Facts: gitlabCredential{User: user}.facts()}
		if role, err := d.RoleIn(ctx, account, "acme"); err != nil || role != want {
			t.Errorf("level %d: %v, %v", level, role, err)
		}
		if role, err := d.RoleIn(ctx, account, "acme/sub"); err != nil || role != max(want, Member) {
			t.Errorf("level %d in the subgroup: %v, %v", level, role, err)
		}
	}
	for name, row := range map[string]struct {
		login    Login
		pullOnly bool
	}{
		"api":      {Login{Name: "alice", Password: alice}, false},
		"registry": {Login{Name: "alice", Password: "glpat-weak-token-that-must-not-leak"}, true},
		"job":      {Login{Name: "gitlab-ci-token", Password: "64_job-secret-that-must-not-leak"}, true},
	} {
		account, err := d.Authenticate(ctx, row.login)
		if err != nil || account.Name != "alice" || account.PullOnly != row.pullOnly || strings.Contains(account.Facts, "secret") {
			t.Errorf("%s: %+v, %v", name, account, err)
		}
		again, err := d.Lookup(ctx, account.Name, account.Facts)
		if err != nil || again.PullOnly != row.pullOnly || again.Facts != account.Facts {
			t.Errorf("%s: %+v, %v", name, again, err)
		}
	}
	for _, name := range []string{"nobody", "", "al*ce", "gitlab+deploy-token-1", "a b"} {
		if _, err := d.Lookup(ctx, name, ""); !errors.Is(err, ErrUnknownAccount) {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, facts := range []string{"{", `{"kind":"other","user":24}`, `{"user":99}`, `{"kind":"deploy","id":1,"in":1}`, `{"kind":"job","id":8,"in":70,"user":25}`} {
		if account, err := d.Lookup(ctx, "alice", facts); !errors.Is(err, ErrUnknownAccount) {
			t.Errorf("%s: %+v, %v", facts, account, err)
		}
	}
	if _, err := d.VisibilityOf(ctx, "none"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// TestGitLabUnseen: what a service token that is no administrator's may not ask
// about is believed for a while after the login, and no longer.
func TestGitLabUnseen(t *testing.T) {
	g, alice, _ := newGitLab(t)
	g.Admin = false
	g.Jobs["glcbt-job-secret-that-must-not-leak"] = &gitlabtest.Job{ID: 8, Project: 70, User: 24, Status: "running"}
	d := openGitLab(t, g, "")
	ctx := t.Context()
	for name, secret := range map[string]string{"alice": alice, jobName: "glcbt-job-secret-that-must-not-leak"} {
		account, err := d.Authenticate(ctx, Login{Name: name, Password: secret})
		if err != nil {
			t.Fatal(err)
		}
		c, err := parseCredential(account.Facts)
		if err != nil {
			t.Fatal(err)
		}
		c.Seen -= int64((unseenFor - 10*time.Second) / time.Second)
		if _, err := d.Lookup(ctx, "alice", c.facts()); err != nil {
			t.Error(err)
		}
		c.Seen -= 11
		if _, err := d.Lookup(ctx, "alice", c.facts()); !errors.Is(err, ErrUnknownAccount) {
			t.Error(err)
		}
	}
}

// BenchmarkGitLabRemembered is what a pull's decision costs while GitLab need not
// be asked.
func BenchmarkGitLabRemembered(b *testing.B) {
	g := gitlabtest.New(b)
	alice := g.AddUser(24, "alice")
	g.AddGroup(1, "acme", "private", 24)
	d := openGitLab(b, g, "")
	d.memory = gitlabapi.NewMemory(time.Hour, time.Hour)
	account, err := d.Authenticate(b.Context(), Login{Name: "alice", Password: alice})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		now, err := d.Lookup(b.Context(), "alice", account.Facts)
		if err != nil {
			b.Fatal(err)
		}
		if v, err := d.VisibilityOf(b.Context(), "acme"); err != nil || v != Private {
			b.Fatal(v, err)
		}
		if role, err := d.RoleIn(b.Context(), now, "acme"); err != nil || role != Member {
			b.Fatal(role, err)
		}
	}
}
