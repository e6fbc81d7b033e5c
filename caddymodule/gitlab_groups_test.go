package caddymodule

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabtest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// TestGitLabMembersOnly: by default, a public group at GitLab gives nobody
// access here, and anonymous clients get no token and cause no question.
func TestGitLabMembersOnly(t *testing.T) {
	g, alice, bob := gitlabtest.NewAcme(t)
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 100))
	s := start(t, gitlabAt(t, g, quickly), hub(up))
	s.secret(gitlabtest.ServiceToken, "secret-that-must-not-leak")
	a, b := bearer(s.login("alice", alice)), bearer(s.login("bob", bob))
	s.get(auth).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	for _, group := range []string{"open", "inner"} {
		s.may(group, 403, a)
		s.may(group, 403, b)
	}
	s.may("acme", 200, a)
	s.may("acme/sub", 200, a)
	s.may("acme", 403, b)
	g.Change(func() { g.Groups[5].Members[25] = &gitlabtest.Member{Level: 10} })
	eventually(t, "a member gets into the public group", func() bool {
		return s.get(manifestPath("open", "alpine", "3.20"), b).StatusCode == http.StatusOK
	})

	// With a declared public group there are anonymous tokens; they open nothing
	// at GitLab, and it is not asked.
	s.load(gitlabAt(t, g, quickly), hub(up), visible("free", directory.Public))
	nobody := bearer(s.get(auth).expect(t, http.StatusOK, "").tokens().Token)
	asked := g.Asked("/api")
	for _, group := range []string{"open", "inner", "acme", "none"} {
		s.may(group, 403, nobody)
	}
	s.may("free", 200, nobody)
	if n := g.Asked("/api") - asked; n != 0 {
		t.Errorf("GitLab was asked %d times about groups that anonymous callers named", n)
	}
}

// TestGitLabGroupPatterns: only matching groups exist here. GitLab is not asked
// about others, and roles in them do not count.
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
	s := gitlabSite(t, g, gitlabAt(t, g, "cache_for 1m", "members_only off", "groups acme/** team/*", "groups open"), private("others"))
	a, c := bearer(s.login("alice", alice)), bearer(s.login("carol", carol))
	nobody := bearer(s.get(auth).tokens().Token)
	for group, status := range map[string][2]int{
		"acme": {200, 403}, "acme/sub": {200, 403}, "acme/sub/deep": {200, 403}, "team/one": {200, 200}, "open": {200, 200},
		"team": {403, 403}, "team/one/two": {403, 403}, "inner": {403, 403}, "none": {403, 403},
	} {
		before := g.Asked("/api/v4/groups")
		s.may(group, status[0], a)
		s.may(group, status[1], nobody)
		if n := g.Asked("/api/v4/groups") - before; n > 0 && slices.Contains([]string{"team", "team/one/two", "inner", "none"}, group) {
			t.Errorf("GitLab was asked %d times about %s", n, group)
		}
	}
	// Its owner at GitLab owns nothing in a declared group that GitLab has too.
	s.may("others", 403, c)
	s.get("/others/dependency_proxy", c).expect(t, http.StatusForbidden, "DENIED")
	// The answer is that to a group that does not exist.
	got, want := s.get(manifestPath("inner", "alpine", "3.20"), a), s.get(manifestPath("nogrp", "alpine", "3.20"), a)
	if strings.ReplaceAll(string(got.body), "inner", "nogrp") != string(want.body) {
		t.Errorf("got %s, want %s", got.body, want.body)
	}
	s.may("acme/sub", 200, bearer(s.login("in", "gldt-in-secret-that-must-not-leak")))
	s.get(auth, basic("out", "gldt-out-secret-that-must-not-leak")).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
}

// TestGitLabGroupPatternsReload: each site has patterns of its own, and a
// deploy token that was refused because of them is accepted when they change.
func TestGitLabGroupPatternsReload(t *testing.T) {
	g, _, _ := gitlabtest.NewAcme(t)
	g.Groups[3].Deploy[12] = &gitlabtest.DeployToken{Name: "out", Secret: "gldt-out-secret-that-must-not-leak", Scopes: []string{"read_registry", "write_registry"}}
	out := basic("out", "gldt-out-secret-that-must-not-leak")
	s := gitlabSite(t, g, gitlabAt(t, g, "cache_for 1m", "groups acme/**"))
	s.get(auth, out).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 100))
	s.load(gitlabAt(t, g, "cache_for 1m", "groups acme/** others"), hub(up))
	s.may("others", 200, out)
	s.load(gitlabAt(t, g, "cache_for 1m", "groups acme/**"), hub(up))
	s.get(auth, out).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
}

// TestGitLabGroupQuestions: neither anonymous clients nor one account use up
// the questions about groups of the others.
func TestGitLabGroupQuestions(t *testing.T) {
	g, alice, bob := gitlabtest.NewAcme(t)
	for i := range 40 {
		g.AddGroup(int64(100+i), fmt.Sprintf("team-%d", i), "private", 24)
	}
	s := gitlabSite(t, g, gitlabAt(t, g, "cache_for 1m", "members_only off"))
	a, b, nobody := bearer(s.login("alice", alice)), bearer(s.login("bob", bob)), bearer(s.get(auth).tokens().Token)
	storm := func(name string, who with, questions int) {
		t.Helper()
		before, refused := g.Asked("/api/v4/groups/{group}"), 0
		start := time.Now()
		for i := range 400 {
			if s.get(manifestPath(fmt.Sprintf("invented-%s-%d", name, i), "alpine", "3.20"), who).StatusCode == http.StatusServiceUnavailable {
				refused++
			}
		}
		most := questions + int(time.Since(start)/time.Second+1)*2
		if asked := g.Asked("/api/v4/groups/{group}") - before; asked > most || asked+refused != 400 {
			t.Errorf("%s: 400 invented groups made %d questions and %d refusals, want %d questions at most", name, asked, refused, most)
		}
	}
	storm("anonymous", nobody, 30)
	storm("bob", b, 30)
	for i := range 30 - 2 {
		s.may(fmt.Sprintf("team-%d", i), 200, a)
	}
	s.may("acme", 200, a)
}

// TestGitLabPublicLoginWarning: with members_only off, users of GitLab can open
// an upstream login to everybody. The log and explain say so.
func TestGitLabPublicLoginWarning(t *testing.T) {
	g, _, _ := gitlabtest.NewAcme(t)
	up := registrytest.New(t, registrytest.WithToken("hub", upstreamPassword))
	login := hubLogin(t)
	for line, want := range map[string]map[string]string{
		"":                 {"open": "", "acme": ""},
		"members_only off": {"open": "the group is public", "acme": "the group can become public in the directory gitlab"},
	} {
		s := startWithAdmin(t, gitlabAt(t, g, "cache_for 1m", line), hub(up, login))
		s.secret(gitlabtest.ServiceToken)
		if got := strings.Contains(s.logs(), "groups that are public in a directory: anybody can pull"); got != (line != "") {
			t.Errorf("%q: the log warns: %v", line, got)
		}
		for group, text := range want {
			out := s.mustCommandAny("explain", "--pull", group+"/alpine")
			if got := strings.Contains(out, "warning:"); got != (text != "") || !strings.Contains(out, text) {
				t.Errorf("%q, %s: explain prints %s, want %q", line, group, out, text)
			}
		}
		s.stop()
	}
}
