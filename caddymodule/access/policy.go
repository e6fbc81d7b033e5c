package access

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
)

// Policy decides what an account may do in a group. It is made anew with each
// configuration and asked at each request; a token decides nothing.
type Policy struct {
	groups        map[string]*groupPolicy
	privateGroups bool // false: the kill switch, only public groups are served
	anyPublic     bool // group, or one that may be
	foreignPublic bool // group of a directory may be public
	directories   []Named
}

type groupPolicy struct {
	visibility directory.Visibility
	roles      map[ID]directory.Role
	lists      bool     // it lists accounts, or a directory's map line leads to it or above
	from       []string // the directories whose members are the group's too
}

// Group is a group of the configuration. Entries of accounts are as the
// configuration lists them.
type Group struct {
	Path                         string
	Visibility                   directory.Visibility
	Members, Maintainers, Owners []string
	MembersFrom                  []string // names of directories
	Allow, Deny                  []string // patterns of images
}

// NewPolicy returns what a configuration says. With privateGroups off only public
// groups are served.
func NewPolicy(groups []Group, privateGroups bool, directories []Named) *Policy {
	a := &Policy{groups: make(map[string]*groupPolicy, len(groups)), privateGroups: privateGroups, directories: directories}
	names := namesOf(directories)
	for _, g := range groups {
		ga := &groupPolicy{visibility: g.Visibility, roles: make(map[ID]directory.Role), from: g.MembersFrom}
		for role, entries := range map[directory.Role][]string{directory.Member: g.Members, directory.Maintainer: g.Maintainers, directory.Owner: g.Owners} {
			ga.lists = ga.lists || len(entries) > 0
			for _, entry := range entries {
				if id, err := names.Account("members", entry); err == nil { // others were refused before
					ga.roles[id] = max(ga.roles[id], role)
				}
			}
		}
		a.groups[g.Path] = ga
		a.anyPublic = a.anyPublic || g.Visibility == directory.Public
	}
	for _, d := range directories {
		a.foreignPublic = a.foreignPublic || directory.GroupsMayBePublic(d.Directory)
		if mapping, ok := d.Directory.(directory.Mapping); ok {
			a.addMapped(mapping.MappedGroups())
		}
	}
	a.anyPublic = a.anyPublic || a.foreignPublic
	return a
}

// AllowsAnonymous reports whether an anonymous client can have any business here.
func (a *Policy) AllowsAnonymous() bool { return a.anyPublic }

// addMapped notes the groups that map lines lead to: accounts have roles in them,
// and in those below, as if the groups listed them.
func (a *Policy) addMapped(groups []string) {
	for path, g := range a.groups {
		g.lists = g.lists || slices.ContainsFunc(groups, func(mapped string) bool { return within(path, mapped) })
	}
}

// Verdict is a decision and the rule that made it, for the log and for those
// who may know it: who has any part in the group, or runs the site.
type Verdict struct {
	Ok      bool
	Rule    string
	Insider bool
}

// Decide says whether somebody may do in a group what takes a role. A group
// that does not exist and one that is out of bounds must look alike to the
// caller. An error means that it cannot be told now, and denies.
func (a *Policy) Decide(ctx context.Context, who Caller, group string, want directory.Role) (Verdict, error) {
	if rule := a.deniedUnasked(who, group); rule != "" {
		return Verdict{Rule: rule}, nil
	}
	visibility, err := a.VisibilityOf(ctx, group)
	known := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Verdict{}, err
	}
	switch {
	case visibility == directory.Public && want <= directory.Member:
		return Verdict{Ok: true, Rule: "public group"}, nil
	case !known:
		return Verdict{Rule: "unknown group", Insider: who.Admin && who.reaches(group)}, nil
	case who.Anonymous:
		return Verdict{Rule: "anonymous"}, nil
	}
	role, err := a.RoleOf(ctx, who, group)
	if err != nil {
		return Verdict{}, err
	}
	v := Verdict{Insider: (who.Admin || role > directory.NoRole) && who.reaches(group)}
	v.Ok, v.Rule = a.judge(who, group, visibility, role, want)
	return v, nil
}

// deniedUnasked returns the rule that denies a caller who cannot be a member of a group
// that only a directory may know and that cannot be public, so that no directory is
// asked about invented names.
func (a *Policy) deniedUnasked(who Caller, group string) string {
	switch {
	case a.groups[group] != nil || a.foreignPublic:
		return ""
	case who.Anonymous:
		return "anonymous"
	case !who.reaches(group):
		return "token of other groups"
	}
	return ""
}

// reaches tells whether the account has any business in a group. Beyond that
// its roles are not to be told either: a token that is limited must not find
// out where else its owner is a member.
func (c Caller) reaches(group string) bool {
	return c.Only == nil || slices.ContainsFunc(c.Only, func(above string) bool { return within(group, above) })
}

func (a *Policy) judge(who Caller, group string, visibility directory.Visibility, role, want directory.Role) (ok bool, rule string) {
	switch {
	case !a.privateGroups && visibility != directory.Public:
		return false, "private groups are off"
	case !who.reaches(group):
		return false, "token of other groups"
	case who.PullOnly && want > directory.Member:
		return false, "token for pulling only"
	case who.Admin:
		return true, "admin"
	case role >= want:
		return true, role.String()
	case visibility == directory.Internal && want <= directory.Member && !who.External:
		return true, "internal group"
	case role > directory.NoRole:
		return false, role.String() + " only"
	}
	return false, "not a member"
}

// VisibilityOf asks the configuration first, then the directories that know
// groups.
func (a *Policy) VisibilityOf(ctx context.Context, group string) (directory.Visibility, error) {
	if g := a.groups[group]; g != nil {
		return g.visibility, nil
	}
	_, visibility, err := a.holderOf(ctx, group)
	return visibility, err
}

// RoleOf returns the highest of the account's roles in the group and in those
// above it, by the configuration and, where it counts, by the account's directory.
func (a *Policy) RoleOf(ctx context.Context, who Caller, group string) (directory.Role, error) {
	role, own, declared := directory.NoRole, directory.NoRole, false
	for path := range upwards(group) {
		if g := a.groups[path]; g != nil {
			role, declared = max(role, g.roles[who.ID()]), true
		}
		if declared {
			role = max(role, who.Mapped[path])
		}
		own = max(own, who.Roles[path])
	}
	if who.Directory == TokensDirectory {
		return max(role, own), nil // which a token of ours has by itself
	}
	groups, asks := who.source.(directory.GroupDirectory)
	if role == directory.Owner || own == directory.NoRole && !asks {
		return role, nil
	}
	counts, err := a.counts(ctx, who.Directory, group)
	if err != nil || !counts {
		return role, err
	}
	if asks {
		given, err := groups.RoleIn(ctx, who.Account, group)
		if err != nil {
			return role, fmt.Errorf("directory %s: %w", who.Directory, err)
		}
		own = max(own, given)
	}
	return max(role, own), nil
}
