package access

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// TestAccessTokenRights checks what each kind of token may do, including through
// the roles of its owner, that the account which a login returns is the one that
// [Accounts.Current] finds again, and that tokens expire.
func TestAccessTokenRights(t *testing.T) {
	now := time.Now()
	store := accesstoken.New(accesstoken.Config{Storage: &certmagic.FileStorage{Path: t.TempDir()}, Now: func() time.Time { return now }})
	a := NewAccounts(Config{Admins: []string{"root"}})
	a.UseTokens(store)
	a.Add("foreign", groupDirectory{})
	policy := NewPolicy([]Group{{Path: "acme", Maintainers: []string{"erin"}}, {Path: "acme/sub"}, {Path: "tools", Visibility: directory.Internal}}, true, a.directories)
	pull, manage := []accesstoken.Scope{accesstoken.Pull}, []accesstoken.Scope{accesstoken.Pull, accesstoken.Manage}
	erin, root := &accesstoken.Owner{Name: "erin", Directory: "foreign", Facts: "facts"}, &accesstoken.Owner{Name: "root", Directory: "foreign"}
	for name, row := range map[string]struct {
		token accesstoken.Token
		may   string // GROUP ROLE
	}{
		"deploy":       {accesstoken.Token{Kind: accesstoken.Deploy, Groups: []string{"acme"}, Scopes: pull}, "acme member, acme/sub member"},
		"deploy below": {accesstoken.Token{Kind: accesstoken.Deploy, Groups: []string{"acme/sub"}, Scopes: pull}, "acme/sub member"},
		"group member": {accesstoken.Token{Kind: accesstoken.Group, Groups: []string{"acme"}, Role: "member", Scopes: manage}, "acme member, acme/sub member"},
		"maintainer":   {accesstoken.Token{Kind: accesstoken.Group, Groups: []string{"acme"}, Role: "maintainer", Scopes: manage}, "acme maintainer, acme/sub maintainer"},
		"owner":        {accesstoken.Token{Kind: accesstoken.Group, Groups: []string{"theirs"}, Role: "owner", Scopes: manage}, "theirs owner, theirs/sub owner"},
		"owner, pulls": {accesstoken.Token{Kind: accesstoken.Group, Groups: []string{"acme"}, Role: "owner", Scopes: pull}, "acme member, acme/sub member"},
		"personal":     {accesstoken.Token{Kind: accesstoken.Personal, Owner: erin, Scopes: pull}, "acme member, acme/sub member, theirs member, theirs/sub member, tools member"},
		"and manages":  {accesstoken.Token{Kind: accesstoken.Personal, Owner: erin, Scopes: manage}, "acme maintainer, acme/sub maintainer, theirs maintainer, theirs/sub maintainer, tools member"},
		"in one group": {accesstoken.Token{Kind: accesstoken.Personal, Owner: erin, Groups: []string{"theirs/sub"}, Scopes: manage}, "theirs/sub maintainer"},
		"admin, pulls": {accesstoken.Token{Kind: accesstoken.Personal, Owner: root, Groups: []string{"acme"}, Scopes: pull}, "acme member, acme/sub member"},
		"admin":        {accesstoken.Token{Kind: accesstoken.Personal, Owner: root, Groups: []string{"tools"}, Scopes: manage}, "tools owner"},
		"other site":   {accesstoken.Token{Kind: accesstoken.Deploy, Groups: []string{"acme"}, Scopes: pull, Site: "other"}, "wrong password: the access token is for another site"},
		"no account":   {accesstoken.Token{Kind: accesstoken.Personal, Owner: &accesstoken.Owner{Name: "nobody", Directory: "foreign"}, Scopes: pull}, "unknown account"},
		"no directory": {accesstoken.Token{Kind: accesstoken.Personal, Owner: &accesstoken.Owner{Name: "erin", Directory: "static"}, Scopes: pull}, "unknown account"},
	} {
		token, secret, err := store.Create(t.Context(), row.token, time.Hour)
		if err != nil {
			t.Fatalf("creating %s: %v", name, err)
		}
		who, err := a.Authenticate(t.Context(), directory.Login{Password: secret})
		again, err2 := a.Current(t.Context(), who.Identity())
		if err != nil {
			if !directory.IsRefusal(err) || !strings.Contains(err.Error(), row.may) {
				t.Errorf("%s: got %v, want a refusal with %q", name, err, row.may)
			}
			continue
		}
		if err2 != nil || !reflect.DeepEqual(who, again) || who.Token != token.ID {
			t.Errorf("%s: got %+v from Current and %v, want %+v with token %s", name, again, err2, who, token.ID)
		}
		if got := mayDo(t, policy, who); got != row.may {
			t.Errorf("%s: got %s, want %s", name, got, row.may)
		}
		now = now.Add(time.Hour)
		if _, err := a.Current(t.Context(), who.Identity()); !directory.IsRefusal(err) || !errors.Is(err, accesstoken.ErrExpired) {
			t.Errorf("%s after it has expired: got %v, want ErrExpired", name, err)
		}
	}
}

// mayDo returns the highest role that a caller has in each group.
func mayDo(t *testing.T, policy *Policy, who Caller) string {
	t.Helper()
	var may []string
	for _, group := range []string{"acme", "acme/sub", "theirs", "theirs/sub", "tools"} {
		for role := directory.Owner; role > directory.NoRole; role-- {
			v, err := policy.Decide(t.Context(), who, group, role)
			if err != nil {
				t.Errorf("%s in %s: %v", role, group, err)
			}
			if v.Allowed {
				may = append(may, fmt.Sprintf("%s %s", group, role))
				break
			}
		}
	}
	return strings.Join(may, ", ")
}

func TestIntersect(t *testing.T) {
	for _, row := range []struct{ a, b, want []string }{
		{nil, nil, nil},
		{nil, []string{"a"}, []string{"a"}},
		{[]string{"a"}, []string{"a", "b"}, []string{"a"}},
		{[]string{"a"}, []string{"a/b", "ab"}, []string{"a/b"}},
		{[]string{"a/b", "c"}, []string{"a", "a/b/c"}, []string{"a/b", "a/b/c"}},
		{[]string{"a"}, []string{"b"}, []string{}},
		{[]string{}, nil, []string{}},
		{[]string{}, []string{"a"}, []string{}},
	} {
		for _, got := range [][]string{intersect(row.a, row.b), intersect(row.b, row.a)} {
			if !slices.Equal(got, row.want) || (got == nil) != (row.want == nil) {
				t.Errorf("intersect %v and %v: got %v, want %v", row.a, row.b, got, row.want)
			}
		}
	}
}
