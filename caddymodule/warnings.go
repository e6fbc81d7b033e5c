package caddymodule

import (
	"fmt"
	"slices"

	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
)

// loginHolder returns whose login is used when a group pulls from an upstream:
// "group PATH" of the nearest group that has one, else "upstream NAME"; empty
// if pulls are anonymous there.
func (h *Handler) loginHolder(group string, u *Upstream) string {
	for path := range access.Upwards(group) {
		for _, g := range h.Groups {
			if g.Path == path && slices.ContainsFunc(g.Upstreams, func(gu *GroupUpstream) bool { return gu.Name == u.Name }) {
				return "group " + path
			}
		}
	}
	if u.Credentials != nil {
		return "upstream " + u.Name
	}
	return ""
}

// warnOfPublicLogins logs each group that lets anybody pull with a login: a
// public one, and those of a directory that can become public at any time.
func (h *Handler) warnOfPublicLogins() {
	const message = "anybody can pull what this upstream login can read; limit it with allow, or make the group private"
	for _, u := range h.Upstreams {
		anyLogin := ""
		for _, g := range h.Groups {
			holder := h.loginHolder(g.Path, u)
			if anyLogin == "" {
				anyLogin = holder
			}
			if g.Visibility == directory.Public && holder != "" && h.limits.MayReach(g.Path, u.Name) {
				h.logger.Warn("public group: "+message, zap.String("group", g.Path), zap.String("upstream", u.Name), zap.String("login_of", holder))
			}
		}
		if u.Credentials != nil {
			anyLogin = "upstream " + u.Name
		}
		if anyLogin == "" {
			continue
		}
		for _, name := range h.access.OpenDirectories() {
			h.logger.Warn("groups that are public in a directory: "+message+" with members_only on",
				zap.String("directory", name), zap.String("upstream", u.Name), zap.String("login_of", anyLogin))
		}
	}
}

// publicLogin returns the warning of [Handler.warnOfPublicLogins] about one group
// and upstream, or "".
func (h *Handler) publicLogin(group string, visibility directory.Visibility, upstream string) string {
	u := h.upstreams[upstream]
	holder := h.loginHolder(group, u)
	if holder == "" || visibility == "" || !h.limits.MayReach(group, upstream) {
		return ""
	}
	declared := slices.ContainsFunc(h.Groups, func(g *Group) bool { return g.Path == group })
	switch {
	case visibility == directory.Public:
		return fmt.Sprintf("the group is public: anybody can pull what the login of %s can read", holder)
	case !declared && len(h.access.OpenDirectories()) > 0:
		return fmt.Sprintf("the group can become public in the directory %s: then anybody can pull what the login of %s can read", h.access.OpenDirectories()[0], holder)
	}
	return ""
}

// accessGroups returns what the configuration says of groups.
func accessGroups(groups ...*Group) []access.Group {
	rules := make([]access.Group, len(groups))
	for i, g := range groups {
		rules[i] = access.Group{
			Path: g.Path, Visibility: g.Visibility,
			Members: g.Members, Maintainers: g.Maintainers, Owners: g.Owners, MembersFrom: g.MembersFrom,
			Allow: g.Allow, Deny: g.Deny,
		}
	}
	return rules
}

// warnOfUnknownMembers logs the members that do not exist, where the directory
// lists all of its accounts.
func (h *Handler) warnOfUnknownMembers() {
	for _, g := range h.Groups {
		for _, m := range h.accounts.Unknown(slices.Concat(g.Members, g.Maintainers, g.Owners)) {
			h.logger.Warn("group member has no account", zap.String("group", g.Path), zap.String("member", m))
		}
	}
}

// logIgnoredMembers logs in which groups the members that a directory may have in a
// group of the same path do not count: earlier versions counted them.
func (h *Handler) logIgnoredMembers() {
	for _, d := range h.accounts.Directories() {
		if groups := h.access.Ignored(d); groups != nil {
			h.logger.Info("the directory's members of these groups do not count, since the configuration says who is in them; write members_from in those where they should",
				zap.String("directory", d.Name), zap.Strings("groups", groups))
		}
	}
}
