package caddymodule

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"strings"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/static"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/registrytest"
)

// foreign is a directory that knows groups of its own: theirs, private, where
// erin maintains, and their-open, public. Asked about broken it cannot answer.
type foreign struct{ directory.Directory }

func (foreign) RoleIn(_ context.Context, account directory.Account, group string) (directory.Role, error) {
	if account.Name == "erin" && within(group, "theirs") {
		return directory.Maintainer, nil
	}
	return directory.NoRole, nil
}

func (foreign) VisibilityOf(_ context.Context, group string) (directory.Visibility, error) {
	switch group {
	case "theirs", "theirs/sub":
		return directory.Private, nil
	case "their-open":
		return directory.Public, nil
	case "broken":
		return "", errors.New("away")
	}
	return "", fs.ErrNotExist
}

// TestDecide holds each rule, and who learns its name.
func TestDecide(t *testing.T) {
	theirs, static := namedDirectory{"foreign", foreign{}}, namedDirectory{"static", staticOf("alice", "mia", "olaf", "carol")}
	directories := []namedDirectory{static, theirs}
	groups := []groupRules{
		{path: "acme", members: []string{"alice"}, maintainers: []string{"mia"}, owners: []string{"olaf"}},
		{path: "acme/sub", members: []string{"carol", "mia"}},
		{path: "tools", visibility: directory.Internal},
		{path: "open", visibility: directory.Public},
	}
	who := func(name string) caller { return caller{Account: directory.Account{Name: name}, directory: "static"} }
	limited := who("alice")
	limited.Only = []string{"acme/sub"}
	puller := who("olaf")
	puller.PullOnly = true
	admin := who("root")
	admin.Admin = true
	given := who("ci")
	given.Mapped = map[string]directory.Role{"acme": directory.Member}
	named := who("ci")
	named.Roles = map[string]directory.Role{"acme": directory.Owner}
	mapped := who("ci")
	mapped.Mapped = map[string]directory.Role{"theirs": directory.Owner}
	erin := caller{Account: directory.Account{Name: "erin"}, directory: "foreign", source: theirs.Directory}
	alice := caller{Account: directory.Account{Name: "alice"}, directory: "foreign", source: theirs.Directory}
	external := who("bob")
	external.External = true
	for _, row := range []struct {
		who     caller
		group   string
		want    directory.Role
		ok      bool
		rule    string
		insider bool
	}{
		{caller{anonymous: true}, "open", directory.Member, true, "public group", false},
		{caller{anonymous: true}, "open", directory.Maintainer, false, "anonymous", false},
		{caller{anonymous: true}, "acme", directory.Member, false, "anonymous", false},
		{caller{anonymous: true}, "none", directory.Member, false, "unknown group", false},
		{who("bob"), "acme", directory.Member, false, "not a member", false},
		{who("bob"), "none", directory.Member, false, "unknown group", false},
		{who("bob"), "tools", directory.Member, true, "internal group", false},
		{who("bob"), "tools", directory.Maintainer, false, "not a member", false},
		{who("alice"), "acme", directory.Member, true, "member", true},
		{who("alice"), "acme/sub", directory.Member, true, "member", true},
		{who("alice"), "acme", directory.Maintainer, false, "member only", true},
		{who("alice"), "acme/none", directory.Member, false, "unknown group", false},
		{who("carol"), "acme", directory.Member, false, "not a member", false},
		{who("mia"), "acme/sub", directory.Maintainer, true, "maintainer", true}, // from above, though a member there
		{who("mia"), "acme", directory.Owner, false, "maintainer only", true},
		{who("olaf"), "acme/sub", directory.Owner, true, "owner", true},
		{limited, "acme", directory.Member, false, "token of other groups", false},
		{limited, "acme/sub", directory.Member, true, "member", true},
		{limited, "open", directory.Member, true, "public group", false},
		{puller, "acme", directory.Member, true, "owner", true},
		{puller, "acme", directory.Owner, false, "token for pulling only", true},
		{admin, "acme", directory.Owner, true, "admin", true},
		{admin, "none", directory.Member, false, "unknown group", true},
		{given, "acme/sub", directory.Member, true, "member", true},
		{given, "tools", directory.Maintainer, false, "not a member", false},
		{named, "acme/sub", directory.Member, false, "not a member", false}, // which lists others
		{mapped, "theirs", directory.Member, false, "not a member", false},  // which is not declared
		{alice, "acme", directory.Member, false, "not a member", false},
		{external, "tools", directory.Member, false, "not a member", false},
		{external, "open", directory.Member, true, "public group", false},
		{erin, "theirs/sub", directory.Maintainer, true, "maintainer", true},
		{erin, "theirs", directory.Owner, false, "maintainer only", true},
		{erin, "acme", directory.Member, false, "not a member", false},
		{who("bob"), "theirs", directory.Member, false, "not a member", false},
		{caller{anonymous: true}, "their-open", directory.Member, true, "public group", false},
	} {
		a := newAccess(groups, true, directories)
		v, err := a.decide(t.Context(), row.who, row.group, row.want)
		if want := (verdict{row.ok, row.rule, row.insider}); err != nil || v != want {
			t.Errorf("%s as %v in %s: %+v, %v instead of %+v", row.who.Name, row.want, row.group, v, err, want)
		}
		off := newAccess(groups, false, directories)
		if v, err := off.decide(t.Context(), row.who, row.group, row.want); err != nil || v.ok && v.rule != "public group" {
			t.Errorf("%s in %s with private groups off: %+v, %v", row.who.Name, row.group, v, err)
		}
	}
	if v, err := newAccess(groups, true, directories).decide(t.Context(), admin, "broken", directory.Member); err == nil || v.ok {
		t.Errorf("a directory that cannot answer: %+v, %v", v, err)
	}
}

// staticOf is a static directory that lists accounts of these names.
func staticOf(names ...string) *static.Directory {
	s := new(static.Directory)
	for _, name := range names {
		s.Users = append(s.Users, &static.User{Name: name})
	}
	return s
}

// TestBlocked: an account that the configuration blocks is refused at once,
// with its password and with a token of before, and learns no more than that
// of a wrong one.
func TestBlocked(t *testing.T) {
	up := registrytest.New(t)
	up.PutImage("library/alpine", "3.20", random(1, 100))
	lines := []string{users("alice", "bob"), private("acme", "alice", "bob"), hub(up)}
	s := start(t, lines...)
	path := manifestPath("acme", "alpine", "3.20")
	token := s.token("alice")
	s.get(path, bearer(token)).expect(t, http.StatusOK, "")
	s.load(append(lines, "blocked alice")...)
	s.get(path, bearer(token)).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	blocked := s.get(auth, as("alice")).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	wrong := s.get(auth, func(r *http.Request) { r.SetBasicAuth("bob", "wrong") }).expect(t, http.StatusUnauthorized, "UNAUTHORIZED")
	if string(blocked.body) != string(wrong.body) {
		t.Errorf("%s and %s", blocked.body, wrong.body)
	}
	s.get(path, as("bob")).expect(t, http.StatusOK, "")
	if !strings.Contains(s.logs(), "the account is blocked") {
		t.Error("the log does not tell why")
	}
}

// TestDenialDetail: the rule that decided is for those who have a part in the
// group, and for admins.
func TestDenialDetail(t *testing.T) {
	s := start(t, users("alice", "bob", "carol"), private("acme", "alice"), "private_groups off", "admins carol")
	for name, rule := range map[string]string{"alice": `{"rule":"private groups are off"}`, "carol": `{"rule":"private groups are off"}`, "bob": "null"} {
		a := s.get(manifestPath("acme", "alpine", "3.20"), as(name)).expect(t, http.StatusForbidden, "DENIED")
		if !strings.Contains(string(a.body), `"detail":`+rule+`}`) {
			t.Errorf("%s is told %s", name, a.body)
		}
	}
}
