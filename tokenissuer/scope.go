package tokenissuer

import (
	"slices"
	"strings"
)

// Limits of a token request. Clients send one or two scopes of less than 300
// bytes.
const (
	maxScopes      = 64
	maxScopeBytes  = 1024
	maxActions     = 16
	maxActionBytes = 64
)

// Scope names a resource and what a client wants to do with it, in the form
// type:name:actions, such as
// "repository:acme/dependency_proxy/containers/alpine:pull".
type Scope struct {
	// Type is "repository", "registry" or any other type, with its class if it
	// has one: "repository(plugin)".
	Type string
	// Name may contain colons: "registry.example.com:5000/acme/alpine".
	Name string
	// Actions contains 1 to 16 actions of at most 64 bytes, in the order of the
	// request and without duplicates.
	Actions []string
}

// String returns the scope in the form in which clients send it. It contains
// only characters that are allowed in a quoted parameter of a challenge (RFC 6750
// section 3).
func (s Scope) String() string {
	return s.Type + ":" + s.Name + ":" + strings.Join(s.Actions, ",")
}

// ParseScopes parses the values of the scope parameter. Clients repeat the
// parameter, or separate several scopes by spaces. Scopes with the same type and
// name are merged. Unknown types and actions are kept. Because clients also send
// scopes of other registries, nothing is an error: a scope that is not
// type:name:actions in printable ASCII or is longer than 1 KiB, all scopes after
// the 64th, and actions beyond the limits of [Scope] are ignored.
func ParseScopes(values []string) []Scope {
	var scopes []Scope
	for _, value := range values {
		for text := range strings.SplitSeq(value, " ") {
			scope, ok := parseScope(text)
			if !ok {
				continue
			}
			i := slices.IndexFunc(scopes, func(s Scope) bool {
				return s.Type == scope.Type && s.Name == scope.Name
			})
			switch {
			case i >= 0:
				scopes[i].Actions = union(scopes[i].Actions, scope.Actions)
			case len(scopes) < maxScopes:
				scopes = append(scopes, scope)
			}
		}
	}
	return scopes
}

func parseScope(text string) (Scope, bool) {
	if len(text) > maxScopeBytes || strings.ContainsFunc(text, isInvalidInScope) {
		return Scope{}, false
	}
	kind, rest, _ := strings.Cut(text, ":")
	end := strings.LastIndexByte(rest, ':')
	if kind == "" || end <= 0 {
		return Scope{}, false
	}
	actions := union(nil, strings.Split(rest[end+1:], ","))
	if len(actions) == 0 {
		return Scope{}, false
	}
	return Scope{Type: kind, Name: rest[:end], Actions: actions}, true
}

// isInvalidInScope reports whether r is not allowed in a scope-token (RFC 6749
// section 3.3).
func isInvalidInScope(r rune) bool {
	return r <= ' ' || r >= 0x7f || r == '"' || r == '\\'
}

// union appends those actions of more to list that are not empty, not in the
// list yet, and within the limits.
func union(list, more []string) []string {
	for _, action := range more {
		if len(list) == maxActions {
			break
		}
		if action != "" && len(action) <= maxActionBytes && !slices.Contains(list, action) {
			list = append(list, action)
		}
	}
	return list
}
