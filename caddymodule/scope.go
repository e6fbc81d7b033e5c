package caddymodule

import (
	"slices"
	"strings"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
)

// grantedScope words which of the scopes asked for this service has: pulling
// from what is its own. Clients ask for others in the same breath.
func grantedScope(asked []string) string {
	var granted []string
	for _, scope := range tokenissuer.ParseScopes(asked) {
		if scope.Type == "repository" && strings.Contains(scope.Name, infix) && slices.Contains(scope.Actions, "pull") {
			scope.Actions = []string{"pull"}
			granted = append(granted, scope.String())
		}
	}
	return strings.Join(granted, " ")
}
