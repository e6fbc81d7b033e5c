package caddymodule

import (
	"strings"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
)

// Visibility says who may pull from a group.
type Visibility string

const (
	// Private lets the members of the group and of the groups above it pull.
	Private Visibility = "private"
	// Internal lets any account pull.
	Internal Visibility = "internal"
	// Public lets anybody pull, with an anonymous token.
	Public Visibility = "public"
)

// access decides who may read a group. It is made anew with each
// configuration and asked at each request; a token decides nothing.
type access struct {
	groups        map[string]*groupAccess
	privateGroups bool // false: the kill switch, only public groups are served
	anyPublic     bool
}

type groupAccess struct {
	visibility Visibility
	members    map[string]struct{}
}

func newAccess(groups []*Group, privateGroups bool) *access {
	a := &access{groups: make(map[string]*groupAccess, len(groups)), privateGroups: privateGroups}
	for _, g := range groups {
		ga := &groupAccess{visibility: g.Visibility, members: make(map[string]struct{}, len(g.Members))}
		for _, m := range g.Members {
			ga.members[m] = struct{}{}
		}
		a.groups[g.Path] = ga
		a.anyPublic = a.anyPublic || g.Visibility == Public
	}
	return a
}

// mayPull decides, and names the rule that decided for the log. A group that
// does not exist and one that is out of bounds must look alike to the caller.
func (a *access) mayPull(who tokenissuer.Identity, group string) (ok bool, rule string) {
	g := a.groups[group]
	switch {
	case g == nil:
		return false, "unknown group"
	case g.visibility == Public:
		return true, "public group"
	case !a.privateGroups:
		return false, "private groups are off"
	case who.Anonymous:
		return false, "anonymous"
	case g.visibility == Internal:
		return true, "internal group"
	}
	return a.isMember(who.Name, group)
}

// isMember walks up from the group: members of a group are members of its
// subgroups.
func (a *access) isMember(name, group string) (ok bool, rule string) {
	for {
		if g := a.groups[group]; g != nil {
			if _, ok := g.members[name]; ok {
				return true, "member"
			}
		}
		i := strings.LastIndexByte(group, '/')
		if i < 0 {
			return false, "not a member"
		}
		group = group[:i]
	}
}
