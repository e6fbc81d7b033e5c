package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
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

// Role is what an account is in a group and in the groups below it. Each role
// may do what the ones before it may.
type Role uint8

const (
	// NoRole is that of who is no member.
	NoRole Role = iota
	// Member pulls.
	Member
	// Maintainer sees the group's page, and purges what is cached for it.
	Maintainer
	// Owner makes and revokes the group's tokens.
	Owner
)

var roleNames = [...]string{"no role", "member", "maintainer", "owner"}

// String names the role in lower case.
func (r Role) String() string { return roleNames[min(int(r), len(roleNames)-1)] }

// parseRole returns the role with the given name: member, maintainer or owner.
func parseRole(name string) (Role, bool) {
	for role := Member; role <= Owner; role++ {
		if role.String() == name {
			return role, true
		}
	}
	return NoRole, false
}

// access decides what an account may do in a group. It is made anew with each
// configuration and asked at each request; a token decides nothing.
type access struct {
	groups        map[string]*groupAccess
	privateGroups bool // false: the kill switch, only public groups are served
	anyPublic     bool // group, or one that may be
	foreignPublic bool // group of a directory may be public
	directories   []namedDirectory
}

type groupAccess struct {
	visibility Visibility
	roles      map[accountID]Role
	lists      bool     // it lists accounts, or a directory's map line leads to it or above
	from       []string // the directories whose members are the group's too
}

func newAccess(groups []*Group, privateGroups bool, directories []namedDirectory) *access {
	a := &access{groups: make(map[string]*groupAccess, len(groups)), privateGroups: privateGroups, directories: directories}
	names := namesOf(directories)
	for _, g := range groups {
		ga := &groupAccess{visibility: g.Visibility, roles: make(map[accountID]Role), from: g.MembersFrom}
		for role, entries := range map[Role][]string{Member: g.Members, Maintainer: g.Maintainers, Owner: g.Owners} {
			ga.lists = ga.lists || len(entries) > 0
			for _, entry := range entries {
				if id, err := names.account("members", entry); err == nil { // others were refused before
					ga.roles[id] = max(ga.roles[id], role)
				}
			}
		}
		a.groups[g.Path] = ga
		a.anyPublic = a.anyPublic || g.Visibility == Public
	}
	for _, d := range directories {
		a.foreignPublic = a.foreignPublic || groupsMayBePublic(d.Directory)
		if mapping, ok := d.Directory.(mappingDirectory); ok {
			a.addMapped(mapping.mappedGroups())
		}
	}
	a.anyPublic = a.anyPublic || a.foreignPublic
	return a
}

// addMapped notes the groups that map lines lead to: accounts have roles in them,
// and in those below, as if the groups listed them.
func (a *access) addMapped(groups []string) {
	for path, g := range a.groups {
		g.lists = g.lists || slices.ContainsFunc(groups, func(mapped string) bool { return within(path, mapped) })
	}
}

// verdict is a decision and the rule that made it, for the log and for those
// who may know it: who has any part in the group, or runs the site.
type verdict struct {
	ok      bool
	rule    string
	insider bool
}

// decide says whether somebody may do in a group what takes a role. A group
// that does not exist and one that is out of bounds must look alike to the
// caller. An error means that it cannot be told now, and denies.
func (a *access) decide(ctx context.Context, who caller, group string, want Role) (verdict, error) {
	if rule := a.deniedUnasked(who, group); rule != "" {
		return verdict{rule: rule}, nil
	}
	visibility, err := a.visibilityOf(ctx, group)
	known := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return verdict{}, err
	}
	switch {
	case visibility == Public && want <= Member:
		return verdict{ok: true, rule: "public group"}, nil
	case !known:
		return verdict{rule: "unknown group", insider: who.Admin && who.reaches(group)}, nil
	case who.anonymous:
		return verdict{rule: "anonymous"}, nil
	}
	role, err := a.roleOf(ctx, who, group)
	if err != nil {
		return verdict{}, err
	}
	v := verdict{insider: (who.Admin || role > NoRole) && who.reaches(group)}
	v.ok, v.rule = a.judge(who, group, visibility, role, want)
	return v, nil
}

// deniedUnasked returns the rule that denies a caller who cannot be a member of a group
// that only a directory may know and that cannot be public, so that no directory is
// asked about invented names.
func (a *access) deniedUnasked(who caller, group string) string {
	switch {
	case a.groups[group] != nil || a.foreignPublic:
		return ""
	case who.anonymous:
		return "anonymous"
	case !who.reaches(group):
		return "token of other groups"
	}
	return ""
}

// reaches tells whether the account has any business in a group. Beyond that
// its roles are not to be told either: a token that is limited must not find
// out where else its owner is a member.
func (c caller) reaches(group string) bool {
	return c.Only == nil || slices.ContainsFunc(c.Only, func(above string) bool { return within(group, above) })
}

func (a *access) judge(who caller, group string, visibility Visibility, role, want Role) (ok bool, rule string) {
	switch {
	case !a.privateGroups && visibility != Public:
		return false, "private groups are off"
	case !who.reaches(group):
		return false, "token of other groups"
	case who.PullOnly && want > Member:
		return false, "token for pulling only"
	case who.Admin:
		return true, "admin"
	case role >= want:
		return true, role.String()
	case visibility == Internal && want <= Member && !who.External:
		return true, "internal group"
	case role > NoRole:
		return false, role.String() + " only"
	}
	return false, "not a member"
}

// visibilityOf asks the configuration first, then the directories that know
// groups.
func (a *access) visibilityOf(ctx context.Context, group string) (Visibility, error) {
	if g := a.groups[group]; g != nil {
		return g.visibility, nil
	}
	_, visibility, err := a.holderOf(ctx, group)
	return visibility, err
}

// roleOf returns the highest of the account's roles in the group and in those
// above it, by the configuration and, where it counts, by the account's directory.
func (a *access) roleOf(ctx context.Context, who caller, group string) (Role, error) {
	role, own, declared := NoRole, NoRole, false
	for path := range upwards(group) {
		if g := a.groups[path]; g != nil {
			role, declared = max(role, g.roles[who.id()]), true
		}
		if declared {
			role = max(role, who.Mapped[path])
		}
		own = max(own, who.Roles[path])
	}
	if who.directory == tokensDirectory {
		return max(role, own), nil // which a token of ours has by itself
	}
	groups, asks := who.source.(GroupDirectory)
	if role == Owner || own == NoRole && !asks {
		return role, nil
	}
	counts, err := a.counts(ctx, who.directory, group)
	if err != nil || !counts {
		return role, err
	}
	if asks {
		given, err := groups.RoleIn(ctx, who.Account, group)
		if err != nil {
			return role, fmt.Errorf("directory %s: %w", who.directory, err)
		}
		own = max(own, given)
	}
	return max(role, own), nil
}
