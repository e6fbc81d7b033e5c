package access

import (
	"context"
	"errors"
	"io/fs"
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/static"
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

func (foreign) MayBePublic() bool { return true }

// TestDecide holds each rule, and who learns its name.
func TestDecide(t *testing.T) {
	theirs, static := Named{"foreign", foreign{}}, Named{"static", staticOf("alice", "mia", "olaf", "carol")}
	directories := []Named{static, theirs}
	groups := []Group{
		{Path: "acme", Members: []string{"alice"}, Maintainers: []string{"mia"}, Owners: []string{"olaf"}},
		{Path: "acme/sub", Members: []string{"carol", "mia"}},
		{Path: "tools", Visibility: directory.Internal},
		{Path: "open", Visibility: directory.Public},
	}
	who := func(name string) Caller { return Caller{Account: directory.Account{Name: name}, Directory: "static"} }
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
	erin := Caller{Account: directory.Account{Name: "erin"}, Directory: "foreign", source: theirs.Directory}
	alice := Caller{Account: directory.Account{Name: "alice"}, Directory: "foreign", source: theirs.Directory}
	external := who("bob")
	external.External = true
	for _, row := range []struct {
		who     Caller
		group   string
		want    directory.Role
		ok      bool
		rule    string
		insider bool
	}{
		{Caller{Anonymous: true}, "open", directory.Member, true, "public group", false},
		{Caller{Anonymous: true}, "open", directory.Maintainer, false, "anonymous", false},
		{Caller{Anonymous: true}, "acme", directory.Member, false, "anonymous", false},
		{Caller{Anonymous: true}, "none", directory.Member, false, "unknown group", false},
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
		{Caller{Anonymous: true}, "their-open", directory.Member, true, "public group", false},
	} {
		a := NewPolicy(groups, true, directories)
		v, err := a.Decide(t.Context(), row.who, row.group, row.want)
		if want := (Verdict{row.ok, row.rule, row.insider}); err != nil || v != want {
			t.Errorf("%s as %v in %s: %+v, %v instead of %+v", row.who.Name, row.want, row.group, v, err, want)
		}
		off := NewPolicy(groups, false, directories)
		if v, err := off.Decide(t.Context(), row.who, row.group, row.want); err != nil || v.Ok && v.Rule != "public group" {
			t.Errorf("%s in %s with private groups off: %+v, %v", row.who.Name, row.group, v, err)
		}
	}
	if v, err := NewPolicy(groups, true, directories).Decide(t.Context(), admin, "broken", directory.Member); err == nil || v.Ok {
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

// TestShareOf: subgroups that anybody may have made count for the group that the
// configuration names, or for the first component.
func TestShareOf(t *testing.T) {
	rules := NewPolicy([]Group{{Path: "red"}, {Path: "red/own"}, {Path: "blue/deep/er"}}, true, nil)
	for group, want := range map[string]string{
		"red": "red", "red/a": "red", "red/a/b": "red", "red/own": "red/own", "red/own/x": "red/own", "red/owner": "red",
		"blue/deep/er/x": "blue/deep/er", "blue/deep": "blue", "blue": "blue", "other/a/b": "other", "redder": "redder",
	} {
		if got := rules.ShareOf(group); got != want {
			t.Errorf("%s: got %s, want %s", group, got, want)
		}
	}
}
