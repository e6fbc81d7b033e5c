package gitlab

import (
	"errors"
	"io/fs"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabtest"
)

// open returns a directory at an instance.
func open(t testing.TB, g *gitlabtest.GitLab, prefix string) *Directory {
	t.Setenv("GITLAB_TOKEN", gitlabtest.ServiceToken)
	d := &Directory{URL: g.URL() + "/", Token: "{env.GITLAB_TOKEN}", TokenPrefix: prefix}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	t.Cleanup(cancel)
	if err := d.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Cleanup() })
	return d
}

// TestDirectoryRoles: the role is that of the highest access level, inherited ones
// included, and only a token with the scope api permits more than pulling.
func TestDirectoryRoles(t *testing.T) {
	g, alice, _ := gitlabtest.NewAcme(t)
	g.Tokens["glpat-weak-token-that-must-not-leak"] = &gitlabtest.Token{ID: 2, User: 24, Scopes: []string{"read_registry", "write_registry"}}
	g.Jobs["64_job-secret-that-must-not-leak"] = &gitlabtest.Job{ID: 8, Project: 70, User: 24, Status: "running"}
	d := open(t, g, "")
	ctx := t.Context()
	named, err := d.Lookup(ctx, "ALICE", "")
	if err != nil || named.Name != "alice" || named.PullOnly {
		t.Fatalf("got %+v, %v, want alice", named, err)
	}
	for id, level := range []int{0, 5, 10, 15, 20, 30, 40, 50, 60} {
		user := int64(100 + id)
		g.AddUser(user, "user")
		g.Change(func() {
			g.Groups[1].Members[user] = &gitlabtest.Member{Level: level}
			g.Groups[2].Members[user] = &gitlabtest.Member{Level: 10}
		})
		want := [...]directory.Role{directory.NoRole, directory.NoRole, directory.Member, directory.Member, directory.Member, directory.Member, directory.Maintainer, directory.Owner, directory.Owner}[id]
		account := directory.Account{Facts: credential{User: user}.facts()}
		if role, err := d.RoleIn(ctx, account, "acme"); err != nil || role != want {
			t.Errorf("level %d: got %v, %v, want %v", level, role, err, want)
		}
		if role, err := d.RoleIn(ctx, account, "acme/sub"); err != nil || role != max(want, directory.Member) {
			t.Errorf("level %d in the subgroup: got %v, %v, want at least a member and %v", level, role, err, want)
		}
	}
	for name, row := range map[string]struct {
		login    directory.Login
		pullOnly bool
	}{
		"api":      {directory.Login{Name: "alice", Password: alice}, false},
		"registry": {directory.Login{Name: "alice", Password: "glpat-weak-token-that-must-not-leak"}, true},
		"job":      {directory.Login{Name: "gitlab-ci-token", Password: "64_job-secret-that-must-not-leak"}, true},
	} {
		account, err := d.Authenticate(ctx, row.login)
		if err != nil || account.Name != "alice" || account.PullOnly != row.pullOnly || strings.Contains(account.Facts, "secret") {
			t.Errorf("%s: got %+v, %v, want alice, pull only %v, and no secret", name, account, err, row.pullOnly)
		}
		again, err := d.Lookup(ctx, account.Name, account.Facts)
		if err != nil || again.PullOnly != row.pullOnly || again.Facts != account.Facts {
			t.Errorf("%s: looked up %+v, %v, want the same account", name, again, err)
		}
	}
	for _, name := range []string{"nobody", "", "al*ce", "gitlab+deploy-token-1", "a b"} {
		if _, err := d.Lookup(ctx, name, ""); !errors.Is(err, directory.ErrUnknownAccount) {
			t.Errorf("%q: got %v, want %v", name, err, directory.ErrUnknownAccount)
		}
	}
	for _, facts := range []string{"{", `{"kind":"other","user":24}`, `{"user":99}`, `{"kind":"deploy","id":1,"in":1}`, `{"kind":"job","id":8,"in":70,"user":25}`} {
		if account, err := d.Lookup(ctx, "alice", facts); !errors.Is(err, directory.ErrUnknownAccount) {
			t.Errorf("%s: got %+v, %v, want %v", facts, account, err, directory.ErrUnknownAccount)
		}
	}
	if _, err := d.VisibilityOf(ctx, "none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want %v", err, fs.ErrNotExist)
	}
}

// TestDirectoryHiddenCredentials: a credential that the service token may not ask about is
// valid for a while after the login.
func TestDirectoryHiddenCredentials(t *testing.T) {
	g, alice, _ := gitlabtest.NewAcme(t)
	g.Admin = false
	g.Jobs["glcbt-job-secret-that-must-not-leak"] = &gitlabtest.Job{ID: 8, Project: 70, User: 24, Status: "running"}
	d := open(t, g, "")
	ctx := t.Context()
	for name, secret := range map[string]string{"alice": alice, jobName: "glcbt-job-secret-that-must-not-leak"} {
		account, err := d.Authenticate(ctx, directory.Login{Name: name, Password: secret})
		if err != nil {
			t.Fatal(err)
		}
		c, err := parseCredential(account.Facts)
		if err != nil {
			t.Fatal(err)
		}
		c.Seen -= int64((unseenFor - 10*time.Second) / time.Second)
		if _, err := d.Lookup(ctx, "alice", c.facts()); err != nil {
			t.Errorf("%s, 10 s before the end: got %v, want no error", name, err)
		}
		c.Seen -= 11
		if _, err := d.Lookup(ctx, "alice", c.facts()); !errors.Is(err, directory.ErrUnknownAccount) {
			t.Errorf("%s, after the end: got %v, want %v", name, err, directory.ErrUnknownAccount)
		}
	}
}

// BenchmarkDirectoryRemembered measures the decision about a pull while all answers are
// remembered.
func BenchmarkDirectoryRemembered(b *testing.B) {
	g := gitlabtest.New(b)
	alice := g.AddUser(24, "alice")
	g.AddGroup(1, "acme", "private", 24)
	d := open(b, g, "")
	d.answers = newAnswers(time.Hour, time.Hour)
	account, err := d.Authenticate(b.Context(), directory.Login{Name: "alice", Password: alice})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		now, err := d.Lookup(b.Context(), "alice", account.Facts)
		if err != nil {
			b.Fatal(err)
		}
		if v, err := d.VisibilityOf(b.Context(), "acme"); err != nil || v != directory.Private {
			b.Fatal(v, err)
		}
		if role, err := d.RoleIn(b.Context(), now, "acme"); err != nil || role != directory.Member {
			b.Fatal(role, err)
		}
	}
}

// TestDirectoryReach: a GitLab can be reached unless it fails. One whose rate limit is
// reached answers.
func TestDirectoryReach(t *testing.T) {
	g, _, _ := gitlabtest.NewAcme(t)
	d := open(t, g, "")
	status := 0
	g.Fault = func(w http.ResponseWriter, _ *http.Request) bool {
		if status == 0 {
			return false
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		return true
	}
	for _, row := range []struct {
		status int
		up     bool
	}{{0, true}, {http.StatusTooManyRequests, true}, {http.StatusBadGateway, false}, {0, true}} {
		g.Change(func() { status = row.status })
		if err := d.Reach(t.Context()); (err == nil) != row.up {
			t.Errorf("status %d: got %v, want up: %t", row.status, err, row.up)
		}
	}
}
