package login

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/sitetest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/gitlabtest"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// groupStatuses returns the statuses of pulling from a group, reading its page,
// purging it and listing its tokens.
func groupStatuses(s *sitetest.Site, group string, who ...sitetest.RequestOption) (statuses []int) {
	s.T.Helper()
	for _, request := range []struct{ path, method string }{
		{sitetest.ManifestPath(group, "alpine", "3.20"), http.MethodGet}, {"/" + group + "/dependency_proxy", http.MethodGet},
		{"/" + group + "/dependency_proxy/cache", http.MethodDelete}, {"/" + group + "/dependency_proxy/tokens", http.MethodGet},
	} {
		statuses = append(statuses, s.Get(request.path, append(who, sitetest.Method(request.method))...).StatusCode)
	}
	return statuses
}

// TestGitLabOwnsNoDeclaredGroup checks that a user who creates a group at
// GitLab with the path of a declared group, or below one, gets no access to it
// unless the configuration says so.
func TestGitLabOwnsNoDeclaredGroup(t *testing.T) {
	g, eve, deploy := sitetest.NewGitLabWithEve(t, "ops", "ops/sub", "ops/open")
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
		"a public subgroup is declared":  {"members alice", sitetest.Visible("ops/open", directory.Public), nothing, nothing, pulls, nothing, 200},
		"an internal one, which any may": {"members alice", sitetest.Visible("ops/sub", directory.Internal), nothing, pulls, nothing, nothing, 403},
	} {
		t.Run(name, func(t *testing.T) {
			s := sitetest.GitlabSite(t, g, sitetest.Users("alice"), sitetest.GitlabAt(t, g, "cache_for 1m", "members_only off"), "group ops {\n "+row.ops+"\n}\n", row.more)
			for _, check := range []struct {
				group string
				who   sitetest.RequestOption
				want  []int
			}{{"ops", eve, row.top}, {"ops/sub", eve, row.sub}, {"ops/open", eve, row.open}, {"ops", deploy, row.token}} {
				if got := groupStatuses(s, check.group, check.who); !slices.Equal(got, check.want) {
					t.Errorf("in %s: got %d, want %d", check.group, got, check.want)
				}
			}
			anonymous := sitetest.Bearer(s.Get(sitetest.Auth).Expect(t, http.StatusOK, "").Tokens().Token)
			if got := s.Get(sitetest.ManifestPath("ops/open", "alpine", "3.20"), anonymous).StatusCode; got != row.anonymous {
				t.Errorf("anonymously in ops/open: got %d, want %d", got, row.anonymous)
			}
		})
	}
}

// TestGitLabOwnsNoMappedGroup checks that a group with a map line is protected
// from users of GitLab like one with a list of accounts.
func TestGitLabOwnsNoMappedGroup(t *testing.T) {
	g, eve, _ := sitetest.NewGitLabWithEve(t, "ops", "ops/sub", "ops/open")
	owner, nothing := []int{200, 200, 202, 200}, []int{403, 403, 403, 403}
	for name, row := range map[string]struct {
		to, groups string
		top, sub   []int // statuses for eve, in ops and below
	}{
		"to the group":               {"ops", "group ops {\n quota 1GiB\n}\n", nothing, nothing},
		"to a subgroup":              {"ops/sub", "group ops {\n quota 1GiB\n}\ngroup ops/sub {\n quota 1GiB\n}\n", owner, nothing},
		"to one above":               {"ops", "group ops/sub {\n quota 1GiB\n}\n", owner, nothing},
		"elsewhere":                  {"other", "group ops {\n quota 1GiB\n}\n" + sitetest.Private("other"), owner, owner},
		"to one that takes GitLab's": {"ops", "group ops {\n members_from gitlab\n}\n", owner, owner},
	} {
		t.Run(name, func(t *testing.T) {
			s := sitetest.GitlabSite(t, g, "directory oidc https://ci.example.com {\n audience here\n map sub ops -> "+row.to+"\n}\n", sitetest.GitlabAt(t, g, "cache_for 1m"), row.groups)
			for group, want := range map[string][]int{"ops": row.top, "ops/sub": row.sub} {
				if got := groupStatuses(s, group, eve); !slices.Equal(got, want) {
					t.Errorf("in %s: got %d, want %d", group, got, want)
				}
			}
		})
	}
}

// TestGitLabOwnsNoProviderGroup checks that users of GitLab get no access to a
// group of an authentication provider that comes before GitLab, nor below it.
func TestGitLabOwnsNoProviderGroup(t *testing.T) {
	g, eve, _ := sitetest.NewGitLabWithEve(t, "tools", "tools/sub", "hers")
	provider := "directory authentication {\n provider scribbler on\n groups teams\n}\n"
	zoe := sitetest.Basic("zoe", sitetest.PasswordOf("scribbler"))
	s := sitetest.GitlabSite(t, g, sitetest.GitlabAt(t, g))
	up := registrytest.New(t) // without images: an allowed pull gets 404
	for _, row := range []struct {
		first, second, tools string
		zoe, eve, sub, hers  int // in tools, and eve in tools/sub and hers
	}{
		{provider, sitetest.GitlabAt(t, g), "quota 1GiB", 404, 403, 403, 404},
		{provider, sitetest.GitlabAt(t, g), "members_from gitlab", 403, 404, 404, 404},
		{provider, sitetest.GitlabAt(t, g), "members_from gitlab authentication", 404, 404, 404, 404},
		{sitetest.GitlabAt(t, g), provider, "quota 1GiB", 403, 404, 404, 404},
		{sitetest.GitlabAt(t, g, "groups hers"), provider, "quota 1GiB", 404, 403, 403, 404},
	} {
		s.Load(sitetest.Hub(up), row.first, row.second, "group tools {\n "+row.tools+"\n}\n")
		got := [4]int{sitetest.PullStatus(s, "tools", zoe), sitetest.PullStatus(s, "tools", eve), sitetest.PullStatus(s, "tools/sub", eve), sitetest.PullStatus(s, "hers", eve)}
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
	bob := sitetest.Basic("bob", first.AddUser(1, "bob"))
	first.AddGroup(1, "team", "private", 1)
	second, eve, deploy := sitetest.NewGitLabWithEve(t, "team", "team/sub", "hers")
	up := registrytest.New(t) // without images: an allowed pull gets 404
	two := func(lines ...string) []string {
		return append([]string{sitetest.Hub(up), sitetest.GitlabAt(t, first, sitetest.ShortCacheFor, "grace 20ms", "members_only off"), sitetest.GitlabAt(t, second, "name other", "cache_for 1m", "members_only off")}, lines...)
	}
	s := sitetest.GitlabSite(t, first, sitetest.GitlabAt(t, first, "members_only off"))
	s.Load(two()...)
	if strings.Contains(s.Logs(), "ignoring the members") {
		t.Error("got a warning about a group that the configuration gives to nobody, want none")
	}
	for group, want := range map[string][3]int{"team": {404, 403, 403}, "team/sub": {403, 404, 404}, "hers": {404, 404, 404}} {
		for i, who := range []sitetest.RequestOption{bob, eve, deploy} {
			if got := sitetest.PullStatus(s, group, who); got != want[i] {
				t.Errorf("%d in %s: got %d, want %d", i, group, got, want[i])
			}
		}
	}
	s.Load(two("group team {\n quota 1GiB\n}\n")...)
	if got := [3]int{sitetest.PullStatus(s, "team", bob), sitetest.PullStatus(s, "team", eve), sitetest.PullStatus(s, "team", deploy)}; got != [3]int{404, 403, 403} {
		t.Errorf("in team, which is declared and lists nobody: got %d, want [404 403 403]", got)
	}
	s.Load(two("group team {\n members_from other\n}\n")...)
	if got := [3]int{sitetest.PullStatus(s, "team", bob), sitetest.PullStatus(s, "team", eve), sitetest.PullStatus(s, "team", deploy)}; got != [3]int{403, 404, 404} {
		t.Errorf("in team, which takes the members of the second instance: got %d, want [403 404 404]", got)
	}
	for directory, n := range map[string]int{"gitlab": 1, "other": 0} {
		if got := strings.Count(s.Logs(), `members_from in groups that should have both","directory":"`+directory+`","groups":["team"]`); got != n {
			t.Errorf("got %d log lines that members of %s do not count, want %d", got, directory, n)
		}
	}
	s.Load(two()...)
	first.Change(func() {
		first.Fault = func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusInternalServerError)
			return true
		}
	})
	sitetest.Eventually(t, "it cannot be told whose the group is", func() bool { return sitetest.PullStatus(s, "team", eve) == http.StatusServiceUnavailable })
}

// TestGitLabExternalUsers checks that external users of GitLab have no access
// to internal groups, provided that the service token may see who is external.
func TestGitLabExternalUsers(t *testing.T) {
	g, alice, bob := gitlabtest.NewAcme(t)
	s := sitetest.GitlabSite(t, g, sitetest.GitlabAt(t, g, sitetest.ShortCacheFor, "members_only off"), sitetest.Visible("tools", directory.Internal))
	g.Change(func() {
		g.Users[24].External, g.Users[25].External = true, true
		g.Groups[4].Members[24] = &gitlabtest.Member{Level: 10}
	})
	for group, want := range map[string][2]int{"inner": {200, 403}, "tools": {403, 403}, "open": {200, 200}, "acme": {200, 403}} {
		s.ExpectPull(group, want[0], sitetest.Basic("alice", alice))
		s.ExpectPull(group, want[1], sitetest.Basic("bob", bob))
	}
	g.Change(func() { g.Admin = false })
	sitetest.Eventually(t, "who is not known to be external counts", func() bool {
		return s.Get(sitetest.ManifestPath("inner", "alpine", "3.20"), sitetest.Basic("bob", bob)).StatusCode == http.StatusOK
	})
}
