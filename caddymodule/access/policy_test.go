package access

import (
	"testing"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
)

// TestPolicyDecide checks each rule, and who may know which one has decided.
func TestPolicyDecide(t *testing.T) {
	theirs, static := Named{"foreign", groupDirectory{}}, Named{"static", staticDirectory("alice", "mia", "olaf", "carol")}
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
		who      Caller
		group    string
		required directory.Role
		allowed  bool
		rule     string
		insider  bool
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
		{who("mia"), "acme/sub", directory.Maintainer, true, "maintainer", true}, // the higher role in acme
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
		{named, "acme/sub", directory.Member, false, "not a member", false}, // acme lists other accounts
		{mapped, "theirs", directory.Member, false, "not a member", false},  // theirs is not declared
		{alice, "acme", directory.Member, false, "not a member", false},
		{external, "tools", directory.Member, false, "not a member", false},
		{external, "open", directory.Member, true, "public group", false},
		{erin, "theirs/sub", directory.Maintainer, true, "maintainer", true},
		{erin, "theirs", directory.Owner, false, "maintainer only", true},
		{erin, "acme", directory.Member, false, "not a member", false},
		{who("bob"), "theirs", directory.Member, false, "not a member", false},
		{Caller{Anonymous: true}, "their-open", directory.Member, true, "public group", false},
	} {
		p := NewPolicy(groups, true, directories)
		v, err := p.Decide(t.Context(), row.who, row.group, row.required)
		if want := (Verdict{row.allowed, row.rule, row.insider}); err != nil || v != want {
			t.Errorf("%s as %v in %s: got %+v, %v, want %+v", row.who.Name, row.required, row.group, v, err, want)
		}
		off := NewPolicy(groups, false, directories)
		if v, err := off.Decide(t.Context(), row.who, row.group, row.required); err != nil || v.Allowed && v.Rule != "public group" {
			t.Errorf("%s in %s with private groups off: got %+v, %v, want it denied unless the group is public", row.who.Name, row.group, v, err)
		}
	}
	if v, err := NewPolicy(groups, true, directories).Decide(t.Context(), admin, "broken", directory.Member); err == nil || v.Allowed {
		t.Errorf("with a directory that cannot answer: got %+v, %v, want an error", v, err)
	}
}
