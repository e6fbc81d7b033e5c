package caddymodule

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabtest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// groupStatuses returns the statuses of pulling from a group, reading its page,
// purging it and listing its tokens.
func (s *site) groupStatuses(group string, who ...requestOption) (statuses []int) {
	s.t.Helper()
	for _, request := range []struct{ path, method string }{
		{manifestPath(group, "alpine", "3.20"), http.MethodGet}, {"/" + group + "/dependency_proxy", http.MethodGet},
		{"/" + group + "/dependency_proxy/cache", http.MethodDelete}, {"/" + group + "/dependency_proxy/tokens", http.MethodGet},
	} {
		statuses = append(statuses, s.get(request.path, append(who, method(request.method))...).StatusCode)
	}
	return statuses
}

// TestGitLabOwnsNoDeclaredGroup checks that a user who creates a group at
// GitLab with the path of a declared group, or below one, gets no access to it
// unless the configuration says so.
func TestGitLabOwnsNoDeclaredGroup(t *testing.T) {
	g, eve, deploy := newGitLabWithEve(t, "ops", "ops/sub", "ops/open")
	owner, nothing, pulls := []int{200, 200, 202, 200}, []int{403, 403, 403, 403}, []int{200, 200, 403, 403}
	for name, row := range map[string]struct {
		ops                   string // lines of the declared group
		more                  string
		top, sub, open, token []int // statuses for eve, and for the deploy token in ops
		anonymous             int   // in ops/open
	}{
		"it lists accounts":              {"members alice", "", nothing, nothing, nothing, nothing, 403},
		"it lists an owner":              {"owners alice", "", nothing, nothing, nothing, nothing, 403},
		"it lists accounts of GitLab":    {"members gitlab:bob", "", nothing, nothing, nothing, nothing, 403},
		"it lists, and takes GitLab's":   {"members alice\n members_from gitlab", "", owner, owner, owner, pulls, 200},
		"it takes GitLab's":              {"members_from gitlab", "", owner, owner, owner, pulls, 200},
		"it lists nobody":                {"quota 1GiB", "", owner, owner, owner, pulls, 200},
		"a subgroup that lists nobody":   {"members alice", "group ops/sub {\n quota 1GiB\n}\n", nothing, nothing, nothing, nothing, 403},
		"a subgroup takes GitLab's":      {"members alice", "group ops/sub {\n members_from gitlab\n}\n", nothing, owner, nothing, nothing, 403},
		"a subgroup lists accounts":      {"members_from gitlab", "group ops/sub {\n members alice\n}\n", owner, nothing, owner, pulls, 200},
		"a public subgroup is declared":  {"members alice", visible("ops/open", directory.Public), nothing, nothing, pulls, nothing, 200},
		"an internal one, which any may": {"members alice", visible("ops/sub", directory.Internal), nothing, pulls, nothing, nothing, 403},
	} {
		t.Run(name, func(t *testing.T) {
			s := gitlabSite(t, g, users("alice"), gitlabAt(t, g, "cache_for 1m", "members_only off"), "group ops {\n "+row.ops+"\n}\n", row.more)
			for _, check := range []struct {
				group string
				who   requestOption
				want  []int
			}{{"ops", eve, row.top}, {"ops/sub", eve, row.sub}, {"ops/open", eve, row.open}, {"ops", deploy, row.token}} {
				if got := s.groupStatuses(check.group, check.who); !slices.Equal(got, check.want) {
					t.Errorf("in %s: got %d, want %d", check.group, got, check.want)
				}
			}
			anonymous := bearer(s.get(auth).expect(t, http.StatusOK, "").tokens().Token)
			if got := s.get(manifestPath("ops/open", "alpine", "3.20"), anonymous).StatusCode; got != row.anonymous {
				t.Errorf("anonymously in ops/open: got %d, want %d", got, row.anonymous)
			}
		})
	}
}

// TestGitLabOwnsNoMappedGroup checks that a group with a map line is protected
// from users of GitLab like one with a list of accounts.
func TestGitLabOwnsNoMappedGroup(t *testing.T) {
	g, eve, _ := newGitLabWithEve(t, "ops", "ops/sub", "ops/open")
	owner, nothing := []int{200, 200, 202, 200}, []int{403, 403, 403, 403}
	for name, row := range map[string]struct {
		to, groups string
		top, sub   []int // statuses for eve, in ops and below
	}{
		"to the group":               {"ops", "group ops {\n quota 1GiB\n}\n", nothing, nothing},
		"to a subgroup":              {"ops/sub", "group ops {\n quota 1GiB\n}\ngroup ops/sub {\n quota 1GiB\n}\n", owner, nothing},
		"to one above":               {"ops", "group ops/sub {\n quota 1GiB\n}\n", owner, nothing},
		"elsewhere":                  {"other", "group ops {\n quota 1GiB\n}\n" + private("other"), owner, owner},
		"to one that takes GitLab's": {"ops", "group ops {\n members_from gitlab\n}\n", owner, owner},
	} {
		t.Run(name, func(t *testing.T) {
			s := gitlabSite(t, g, "directory oidc https://ci.example.com {\n audience here\n map sub ops -> "+row.to+"\n}\n", gitlabAt(t, g, "cache_for 1m"), row.groups)
			for group, want := range map[string][]int{"ops": row.top, "ops/sub": row.sub} {
				if got := s.groupStatuses(group, eve); !slices.Equal(got, want) {
					t.Errorf("in %s: got %d, want %d", group, got, want)
				}
			}
		})
	}
}

// TestGitLabOwnsNoProviderGroup checks that users of GitLab get no access to a
// group of an authentication provider that comes before GitLab, nor below it.
func TestGitLabOwnsNoProviderGroup(t *testing.T) {
	g, eve, _ := newGitLabWithEve(t, "tools", "tools/sub", "hers")
	provider := "directory authentication {\n provider scribbler on\n groups teams\n}\n"
	zoe := basic("zoe", passwordOf("scribbler"))
	s := gitlabSite(t, g, gitlabAt(t, g))
	up := registrytest.New(t) // without images: an allowed pull gets 404
	for _, row := range []struct {
		first, second, tools string
		zoe, eve, sub, hers  int // in tools, and eve in tools/sub and hers
	}{
		{provider, gitlabAt(t, g), "quota 1GiB", 404, 403, 403, 404},
		{provider, gitlabAt(t, g), "members_from gitlab", 403, 404, 404, 404},
		{provider, gitlabAt(t, g), "members_from gitlab authentication", 404, 404, 404, 404},
		{gitlabAt(t, g), provider, "quota 1GiB", 403, 404, 404, 404},
		{gitlabAt(t, g, "groups hers"), provider, "quota 1GiB", 404, 403, 403, 404},
	} {
		s.load(hub(up), row.first, row.second, "group tools {\n "+row.tools+"\n}\n")
		got := [4]int{pullStatus(s, "tools", zoe), pullStatus(s, "tools", eve), pullStatus(s, "tools/sub", eve), pullStatus(s, "hers", eve)}
		if want := [4]int{row.zoe, row.eve, row.sub, row.hers}; got != want {
			t.Errorf("with %s before %s: got %d, want %d", row.first, row.tools, got, want)
		}
	}
}

// TestGroupAtTwoGitLabs checks that a group that exists at two instances
// belongs to the first one, and access to it is refused while that one cannot
// answer, unless the configuration names the other.
func TestGroupAtTwoGitLabs(t *testing.T) {
	first := gitlabtest.New(t)
	bob := basic("bob", first.AddUser(1, "bob"))
	first.AddGroup(1, "team", "private", 1)
	second, eve, deploy := newGitLabWithEve(t, "team", "team/sub", "hers")
	up := registrytest.New(t) // without images: an allowed pull gets 404
	two := func(lines ...string) []string {
		return append([]string{hub(up), gitlabAt(t, first, shortCacheFor, "grace 20ms", "members_only off"), gitlabAt(t, second, "name other", "cache_for 1m", "members_only off")}, lines...)
	}
	s := gitlabSite(t, first, gitlabAt(t, first, "members_only off"))
	s.load(two()...)
	if strings.Contains(s.logs(), "ignoring the members") {
		t.Error("got a warning about a group that the configuration gives to nobody, want none")
	}
	for group, want := range map[string][3]int{"team": {404, 403, 403}, "team/sub": {403, 404, 404}, "hers": {404, 404, 404}} {
		for i, who := range []requestOption{bob, eve, deploy} {
			if got := pullStatus(s, group, who); got != want[i] {
				t.Errorf("%d in %s: got %d, want %d", i, group, got, want[i])
			}
		}
	}
	s.load(two("group team {\n quota 1GiB\n}\n")...)
	if got := [3]int{pullStatus(s, "team", bob), pullStatus(s, "team", eve), pullStatus(s, "team", deploy)}; got != [3]int{404, 403, 403} {
		t.Errorf("in team, which is declared and lists nobody: got %d, want [404 403 403]", got)
	}
	s.load(two("group team {\n members_from other\n}\n")...)
	if got := [3]int{pullStatus(s, "team", bob), pullStatus(s, "team", eve), pullStatus(s, "team", deploy)}; got != [3]int{403, 404, 404} {
		t.Errorf("in team, which takes the members of the second instance: got %d, want [403 404 404]", got)
	}
	for directory, n := range map[string]int{"gitlab": 1, "other": 0} {
		if got := strings.Count(s.logs(), `members_from in groups that should have both","directory":"`+directory+`","groups":["team"]`); got != n {
			t.Errorf("got %d log lines that members of %s do not count, want %d", got, directory, n)
		}
	}
	s.load(two()...)
	first.Change(func() {
		first.Fault = func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusInternalServerError)
			return true
		}
	})
	eventually(t, "it cannot be told whose the group is", func() bool { return pullStatus(s, "team", eve) == http.StatusServiceUnavailable })
}

// TestGitLabExternalUsers checks that external users of GitLab have no access
// to internal groups, provided that the service token may see who is external.
func TestGitLabExternalUsers(t *testing.T) {
	g, alice, bob := gitlabtest.NewAcme(t)
	s := gitlabSite(t, g, gitlabAt(t, g, shortCacheFor, "members_only off"), visible("tools", directory.Internal))
	g.Change(func() {
		g.Users[24].External, g.Users[25].External = true, true
		g.Groups[4].Members[24] = &gitlabtest.Member{Level: 10}
	})
	for group, want := range map[string][2]int{"inner": {200, 403}, "tools": {403, 403}, "open": {200, 200}, "acme": {200, 403}} {
		s.expectPull(group, want[0], basic("alice", alice))
		s.expectPull(group, want[1], basic("bob", bob))
	}
	g.Change(func() { g.Admin = false })
	eventually(t, "who is not known to be external counts", func() bool {
		return s.get(manifestPath("inner", "alpine", "3.20"), basic("bob", bob)).StatusCode == http.StatusOK
	})
}
