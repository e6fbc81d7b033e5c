package caddymodule

import (
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabtest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestTokensOverGitLab: a personal token is what its owner is at GitLab at this
// moment, and a group that only GitLab knows can have tokens of ours.
func TestTokensOverGitLab(t *testing.T) {
	g, _, _ := gitlabtest.NewAcme(t)
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 100))
	s := startWithAdmin(t, gitlabAt(t, g, quickly, "members_only off"), hub(up))
	s.secret(gitlabtest.ServiceToken)
	secret, _ := s.create("--account", "Alice")
	limited, _ := s.create("--account", "alice", "--group", "acme/sub")
	deploy, _ := s.create("--group", "others")
	personal := basic("x", secret)
	for group, status := range map[string][3]int{
		"acme": {200, 403, 403}, "acme/sub": {200, 200, 403}, "inner": {200, 403, 403}, "open": {200, 200, 200}, "others": {403, 403, 200}, "none": {403, 403, 403},
	} {
		s.may(group, status[0], personal)
		s.may(group, status[1], basic("x", limited))
		s.may(group, status[2], basic("x", deploy))
	}
	awaits := func(what, group string, status int) {
		t.Helper()
		eventually(t, what, func() bool { return s.get(manifestPath(group, "alpine", "3.20"), personal).StatusCode == status })
	}
	g.Change(func() { delete(g.Groups[1].Members, 24) })
	awaits("who has left the group is refused", "acme", 403)
	g.Change(func() { g.Groups[1].Members[24] = &gitlabtest.Member{Level: 30} })
	awaits("who is back is not", "acme", 200)
	g.Change(func() { g.Users[24].State = "blocked" })
	awaits("who is blocked at GitLab is nobody", "open", 401)
	s.may("others", 200, basic("x", deploy))
}
