package caddymodule

import (
	"fmt"
	"slices"

	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
)

// loginHolder returns where the credentials are configured with which a group pulls
// from an upstream: "group PATH", "upstream NAME" or, for anonymous pulls, "".
func (h *Handler) loginHolder(group string, u *Upstream) string {
	for path := range access.Upwards(group) {
		for _, g := range h.Groups {
			if g.Path == path && slices.ContainsFunc(g.Upstreams, func(gu *GroupUpstream) bool { return gu.Name == u.Name }) {
				return "group " + path
			}
		}
	}
	if u.IsConfigured() {
		return "upstream " + u.Name
	}
	return ""
}

// warnPublicLogins logs the groups through which anybody can pull with a login: those
// that are public, and those of a directory that can become public at any time.
func (h *Handler) warnPublicLogins() {
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
		if u.IsConfigured() {
			anyLogin = "upstream " + u.Name
		}
		if anyLogin == "" {
			continue
		}
		for _, name := range h.policy.OpenDirectories() {
			h.logger.Warn("groups that are public in a directory: "+message+" with members_only on",
				zap.String("directory", name), zap.String("upstream", u.Name), zap.String("login_of", anyLogin))
		}
	}
}

// publicLoginWarning returns the warning of [Handler.warnPublicLogins] about a group
// and an upstream, or "".
func (h *Handler) publicLoginWarning(group string, visibility directory.Visibility, upstream string) string {
	u := h.upstreams[upstream]
	holder := h.loginHolder(group, u)
	if holder == "" || visibility == "" || !h.limits.MayReach(group, upstream) {
		return ""
	}
	declared := slices.ContainsFunc(h.Groups, func(g *Group) bool { return g.Path == group })
	switch {
	case visibility == directory.Public:
		return fmt.Sprintf("the group is public: anybody can pull what the login of %s can read", holder)
	case !declared && len(h.policy.OpenDirectories()) > 0:
		return fmt.Sprintf("the group can become public in the directory %s: then anybody can pull what the login of %s can read", h.policy.OpenDirectories()[0], holder)
	}
	return ""
}

// warnUnknownMembers logs members that do not exist in a directory that lists all of
// its accounts.
func (h *Handler) warnUnknownMembers() {
	for _, g := range h.Groups {
		for _, m := range h.accounts.Unknown(slices.Concat(g.Members, g.Maintainers, g.Owners)) {
			h.logger.Warn("group member has no account", zap.String("group", g.Path), zap.String("member", m))
		}
	}
}

// logIgnoredMembers logs groups whose members in a directory are ignored, because the
// configuration lists their members. Earlier versions did not ignore them.
func (h *Handler) logIgnoredMembers() {
	for _, d := range h.accounts.Directories() {
		if groups := h.policy.Ignored(d); groups != nil {
			h.logger.Info("ignoring the members that the directory has in these groups, because the configuration lists their members; write members_from in groups that should have both",
				zap.String("directory", d.Name), zap.Strings("groups", groups))
		}
	}
}
