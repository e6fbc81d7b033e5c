package access

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/traces"
)

// Policy decides what an account may do in a group. Each configuration has its
// own.
type Policy struct {
	groups        map[string]*groupPolicy // the declared groups by path
	privateGroups bool                    // if false, only public groups are served
	anyPublic     bool                    // a group is or can become public
	foreignPublic bool                    // a group of a directory can become public
	directories   []Named
}

type groupPolicy struct {
	visibility directory.Visibility
	roles      map[ID]directory.Role
	hasList    bool     // lists accounts, or a directory maps accounts to it or above
	from       []string // names of the directories in members_from
}

// Group is a declared group. Accounts are written as in the Caddyfile; see
// [Directories.Account].
type Group struct {
	// Path is one or more path components separated by slashes.
	Path string

	// Visibility says who may pull; empty means [directory.Private].
	Visibility directory.Visibility

	// Members, Maintainers and Owners list the accounts that have a role in the
	// group and in the groups below it. Of several roles the highest counts.
	Members, Maintainers, Owners []string

	// MembersFrom names the directories whose roles in the group of the same
	// path count.
	MembersFrom []string

	// Allow and Deny are patterns of the images that can, or cannot, be pulled
	// through the group and the groups below it; see [ImageLimits].
	Allow, Deny []string
}

// NewPolicy returns the policy of a configuration. If privateGroups is false,
// only public groups are served. Entries that name no account are ignored: they
// are expected to have been rejected before.
func NewPolicy(groups []Group, privateGroups bool, directories []Named) *Policy {
	p := &Policy{groups: make(map[string]*groupPolicy, len(groups)), privateGroups: privateGroups, directories: directories}
	names := namesOf(directories)
	for _, g := range groups {
		p.groups[g.Path] = newGroupPolicy(g, names)
		p.anyPublic = p.anyPublic || g.Visibility == directory.Public
	}
	for _, d := range directories {
		p.foreignPublic = p.foreignPublic || directory.GroupsMayBePublic(d.Directory)
		if mapping, ok := d.Directory.(directory.Mapping); ok {
			p.addMapped(mapping.MappedGroups())
		}
	}
	p.anyPublic = p.anyPublic || p.foreignPublic
	return p
}

func newGroupPolicy(g Group, names Directories) *groupPolicy {
	p := &groupPolicy{visibility: g.Visibility, roles: make(map[ID]directory.Role), from: g.MembersFrom}
	for role, entries := range map[directory.Role][]string{directory.Member: g.Members, directory.Maintainer: g.Maintainers, directory.Owner: g.Owners} {
		p.hasList = p.hasList || len(entries) > 0
		for _, entry := range entries {
			if id, err := names.Account("members", entry); err == nil {
				p.roles[id] = max(p.roles[id], role)
			}
		}
	}
	return p
}

// addMapped marks the groups that a directory maps accounts to, and those below
// them, as groups that list accounts.
func (p *Policy) addMapped(groups []string) {
	for path, g := range p.groups {
		g.hasList = g.hasList || slices.ContainsFunc(groups, func(mapped string) bool { return within(path, mapped) })
	}
}

// AllowsAnonymous reports whether an anonymous client may be able to pull
// anything.
func (p *Policy) AllowsAnonymous() bool { return p.anyPublic }

// ArePublic reports whether an anonymous client at an address may pull from each of
// the groups. It is false for no groups, and if a directory cannot answer.
func (p *Policy) ArePublic(ctx context.Context, address string, groups []string) bool {
	anybody := Caller{Anonymous: true}
	ctx = directory.WithAsker(ctx, anybody.Asker(address))
	for _, group := range groups {
		if v, err := p.Decide(ctx, anybody, group, directory.Member); err != nil || !v.Allowed {
			return false
		}
	}
	return len(groups) > 0
}

// Maintains reports whether a caller at an address is a maintainer of a group. It is
// false if a directory cannot answer.
func (p *Policy) Maintains(ctx context.Context, who Caller, address, group string) bool {
	v, err := p.Decide(directory.WithAsker(ctx, who.Asker(address)), who, group, directory.Maintainer)
	return err == nil && v.Allowed
}

// Verdict is a decision of a [Policy].
type Verdict struct {
	// Allowed is the decision.
	Allowed bool

	// Rule names the rule that decided, such as "not a member". It is for the
	// log, and for insiders.
	Rule string

	// Insider reports whether the caller may know the rule: it has a role in the
	// group or is an admin, and is not limited to other groups.
	Insider bool
}

// Decide reports whether a caller may do what requires a role in a group. The
// answer to the client must be the same for a group that does not exist and one
// that the caller may not use. An error means that a directory could not answer;
// access must then be denied.
func (p *Policy) Decide(ctx context.Context, who Caller, group string, required directory.Role) (Verdict, error) {
	if rule := p.deniedUnasked(who, group); rule != "" {
		return Verdict{Rule: rule}, nil
	}
	visibility, err := p.VisibilityOf(ctx, group)
	known := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Verdict{}, err
	}
	switch {
	case visibility == directory.Public && required <= directory.Member:
		return Verdict{Allowed: true, Rule: "public group"}, nil
	case !known:
		return Verdict{Rule: "unknown group", Insider: who.Admin && who.reaches(group)}, nil
	case who.Anonymous:
		return Verdict{Rule: "anonymous"}, nil
	}
	role, err := p.RoleOf(ctx, who, group)
	if err != nil {
		return Verdict{}, err
	}
	v := Verdict{Insider: (who.Admin || role > directory.NoRole) && who.reaches(group)}
	v.Allowed, v.Rule = p.judge(who, group, visibility, role, required)
	return v, nil
}

// deniedUnasked returns the rule that denies access without asking a directory,
// or "". It applies to a group that is not declared and cannot be public, and to
// a caller who cannot be a member of it, so that such callers cannot make the
// site ask directories about invented names.
func (p *Policy) deniedUnasked(who Caller, group string) string {
	switch {
	case p.groups[group] != nil || p.foreignPublic:
		return ""
	case who.Anonymous:
		return "anonymous"
	case !who.reaches(group):
		return "token of other groups"
	}
	return ""
}

// judge decides about an account and a group that exists.
func (p *Policy) judge(who Caller, group string, visibility directory.Visibility, role, required directory.Role) (allowed bool, rule string) {
	switch {
	case !p.privateGroups && visibility != directory.Public:
		return false, "private groups are off"
	case !who.reaches(group):
		return false, "token of other groups"
	case who.PullOnly && required > directory.Member:
		return false, "token for pulling only"
	case who.Admin:
		return true, "admin"
	case role >= required:
		return true, role.String()
	case visibility == directory.Internal && required <= directory.Member && !who.External:
		return true, "internal group"
	case role > directory.NoRole:
		return false, role.String() + " only"
	}
	return false, "not a member"
}

// VisibilityOf returns the visibility of a group: as declared, or of the first
// directory that has the group. It may be empty, which means private. The error
// is [fs.ErrNotExist] if the group does not exist; with any other error a
// directory could not answer.
func (p *Policy) VisibilityOf(ctx context.Context, group string) (directory.Visibility, error) {
	if g := p.groups[group]; g != nil {
		return g.visibility, nil
	}
	_, visibility, err := p.holderOf(ctx, group)
	return visibility, err
}

// RoleOf returns the highest role of an account in a group and in the groups
// above it. The configuration gives roles, and so does the directory of the
// account where its groups count. An error means that a directory could not
// answer.
func (p *Policy) RoleOf(ctx context.Context, who Caller, group string) (directory.Role, error) {
	role, own, declared := directory.NoRole, directory.NoRole, false
	for path := range Upwards(group) {
		if g := p.groups[path]; g != nil {
			role, declared = max(role, g.roles[who.ID()]), true
		}
		if declared {
			role = max(role, who.Mapped[path])
		}
		own = max(own, who.Roles[path])
	}
	if who.Directory == TokensDirectory {
		return max(role, own), nil // own is the role of the access token itself
	}
	groups, asks := who.source.(directory.GroupDirectory)
	if role == directory.Owner || own == directory.NoRole && !asks {
		return role, nil
	}
	counts, err := p.counts(ctx, who.Directory, group)
	if err != nil || !counts {
		return role, err
	}
	if asks {
		ctx, end := traces.StartDirectory(ctx, who.Directory, "role")
		given, err := groups.RoleIn(ctx, who.Account, group)
		end(outage(err))
		if err != nil {
			return role, fmt.Errorf("directory %s: %w", who.Directory, err)
		}
		own = max(own, given)
	}
	return max(role, own), nil
}
