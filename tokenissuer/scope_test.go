package tokenissuer

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

func TestParseScopes(t *testing.T) {
	const acme = "repository:acme/dependency_proxy/containers/alpine"
	for _, test := range []struct {
		name string
		in   []string
		want string
	}{
		{"none", nil, ""},
		{"empty", []string{"", " ", "  "}, ""},
		{"one", []string{acme + ":pull"}, acme + ":pull"},
		{"push by Docker", []string{acme + ":push,pull"}, acme + ":push,pull"},
		{"same scope twice, by Podman", []string{acme + ":pull", acme + ":pull"}, acme + ":pull"},
		{"joined by space", []string{acme + ":pull  repository:x:pull "}, acme + ":pull repository:x:pull"},
		{"repeated with other actions", []string{acme + ":pull", acme + ":push,pull"}, acme + ":pull,push"},
		{"for a mirror", []string{"repository:library/alpine:pull " + acme + ":pull"}, "repository:library/alpine:pull " + acme + ":pull"},
		{"catalog", []string{"registry:catalog:*"}, "registry:catalog:*"},
		{"with a port", []string{"repository:host:5000/a/b:pull"}, "repository:host:5000/a/b:pull"},
		{"with a class", []string{"repository(plugin):a/b:pull"}, "repository(plugin):a/b:pull"},
		{"unknown type", []string{"artifact:x:read"}, "artifact:x:read"},
		{"upper case", []string{"repository:Acme/X:pull"}, "repository:Acme/X:pull"},
		{"malformed", []string{"repository", "repository:", "repository:x", ":x:pull", "repository::pull", "repository:x:", "repository:x:,", ":::", "::"}, ""},
		{"one malformed of two", []string{"openid repository:x:pull"}, "repository:x:pull"},
		{"not allowed in a header", []string{"repository:x\r\nSet-Cookie:pull", `repository:"x":pull`, `repository:x\:pull`, "repository:ä:pull", "repository:x\x00:pull", "repository:\xff:pull"}, ""},
		{"too long", []string{"repository:" + strings.Repeat("x", maxScopeBytes) + ":pull"}, ""},
		{"long action", []string{"repository:x:pull," + strings.Repeat("x", 65)}, "repository:x:pull"},
	} {
		var got []string
		for _, scope := range ParseScopes(test.in) {
			got = append(got, scope.String())
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
	scope := ParseScopes([]string{"repository:host:5000/a:pull,push"})[0]
	if scope.Type != "repository" || scope.Name != "host:5000/a" || !slices.Equal(scope.Actions, []string{"pull", "push"}) {
		t.Errorf("got %+v, want the port in the name", scope)
	}
}

func TestParseScopesLimits(t *testing.T) {
	var values []string
	for i := range 500 {
		values = append(values, fmt.Sprintf("repository:r%d:pull repository:one:a%d", i, i))
	}
	scopes := ParseScopes(values)
	if len(scopes) != maxScopes {
		t.Errorf("got %d scopes, want %d", len(scopes), maxScopes)
	}
	for _, scope := range scopes {
		if len(scope.Actions) > maxActions {
			t.Errorf("got %d actions, want at most %d", len(scope.Actions), maxActions)
		}
	}
}
