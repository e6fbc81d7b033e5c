package tokenissuer

import (
	"slices"
	"strings"
)

// Bounds of what one token request may ask for. Clients send one or two scopes
// of less than 300 bytes.
const (
	maxScopes      = 64
	maxScopeBytes  = 1024
	maxActions     = 16
	maxActionBytes = 64
)

// Scope is what a client wants to do with a resource: type:name:actions, such
// as "repository:acme/dependency_proxy/containers/alpine:pull".
type Scope struct {
	// Type is "repository", "registry" or anything else, with its class if it
	// has one: "repository(plugin)".
	Type string
	// Name may contain colons: "registry.example.com:5000/acme/alpine".
	Name string
	// Actions has no duplicates and keeps the order in which they were asked
	// for. There are 1 to 16, of at most 64 bytes.
	Actions []string
}

// String is the scope as a client would write it. All its characters are fit
// for a quoted parameter of a challenge (RFC 6750 section 3).
func (s Scope) String() string {
	return s.Type + ":" + s.Name + ":" + strings.Join(s.Actions, ",")
}

// ParseScopes reads the values of the scope parameter: clients repeat it, or
// put several scopes with spaces between them into one value. Scopes of the
// same type and name are joined. Types and actions that mean nothing here are
// kept; what is not type:name:actions in printable ASCII, is longer than 1 KiB
// or comes after 64 others is left out, and so are actions beyond their bounds. Nothing is an error, because clients
// ask for scopes of other registries in the same breath.
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
	if len(text) > maxScopeBytes || strings.ContainsFunc(text, isNoScopeChar) {
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

// isNoScopeChar follows the scope-token of RFC 6749 section 3.3.
func isNoScopeChar(r rune) bool {
	return r <= ' ' || r >= 0x7f || r == '"' || r == '\\'
}

// union is list with those of more that are new, not empty and within bounds.
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
