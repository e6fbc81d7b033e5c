package ldap

import (
	"fmt"
	"testing"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
)

// TestRolesFromFacts: the facts of a login are valid for a day, and for groups that the
// configuration still maps.
func TestRolesFromFacts(t *testing.T) {
	dn := "cn=platform,dc=example,dc=com"
	roles := newRoles([]*Group{{DN: dn, Group: "acme", Role: "owner"}, {DN: "CN=Platform, DC=example, DC=com", Group: "tools"}, {DN: "cn=b,dc=x", Group: "acme"}}, []string{"cn=ops,dc=x"})
	login := time.Now()
	account := directory.Account{Name: "alice", Version: "v"}
	ids := roles.give(&account, func(g mappedGroup) bool { return g.key == dnKey(dn) })
	facts, err := encodeFacts(account, ids, login)
	if err != nil || len(ids) != 1 {
		t.Fatalf("got ids %q, %v, want one", ids, err)
	}
	known, err := roles.fromFacts("alice", facts, login.Add(23*time.Hour))
	if err != nil || known.Version != "v" || known.Admin || len(known.Mapped) != 2 || known.Mapped["acme"] != directory.Owner || known.Mapped["tools"] != directory.Member {
		t.Errorf("got %+v, %v, want an owner of acme and a member of tools", known, err)
	}
	for _, bad := range []string{"", "x", "x v", "9999999999999999999999 v"} {
		if known, err := roles.fromFacts("alice", bad, login); !directory.IsRefusal(err) {
			t.Errorf("%q: got %+v, %v, want a refusal", bad, known, err)
		}
	}
	if known, err := roles.fromFacts("alice", facts, login.Add(25*time.Hour)); !directory.IsRefusal(err) {
		t.Errorf("after a day: got %+v, %v, want a refusal", known, err)
	}
	if known, err := newRoles(nil, nil).fromFacts("alice", facts, login); err != nil || known.Mapped != nil {
		t.Errorf("without a mapping: got %+v, %v, want no roles", known, err)
	}
	for i := range 200 {
		ids = append(ids, groupID(fmt.Sprint(i)))
	}
	if facts, err := encodeFacts(account, ids, login); err == nil {
		t.Errorf("got facts of %d bytes, want an error", len(facts))
	}
}
