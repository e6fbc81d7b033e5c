package caddymodule

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
	"github.com/dependencyproxy/caddy-dependency-proxy/reference"
)

// The checks in this file need nothing but the configuration. They are made when a
// Caddyfile is parsed, so that errors have a line, and again when the module is
// provisioned, for configurations in JSON.

func (g *Group) check() error {
	if g == nil {
		return errors.New("a group is null")
	}
	if err := directory.CheckGroupPath(g.Path); err != nil {
		return err
	}
	if g.Quota < 0 {
		return fmt.Errorf("group %s: quota must not be negative; write a number of bytes", g.Path)
	}
	switch g.Visibility {
	case "", directory.Private, directory.Internal, directory.Public:
		return g.checkPatterns()
	}
	return fmt.Errorf("group %s: unknown visibility '%s'; use private, internal or public", g.Path, g.Visibility)
}

func (u *Upstream) check() error {
	if u == nil {
		return errors.New("an upstream is null")
	}
	if !reference.ValidRepository(u.Name) || strings.Contains(u.Name, "/") {
		return fmt.Errorf("upstream '%s': invalid name; use lower-case letters and digits, separated by . _ __ or -, as in ghcr.io", u.Name)
	}
	endpoints := append([]string{u.Endpoint}, u.FallbackEndpoints...)
	if !strings.Contains(strings.Join(endpoints, " "), "{") {
		if _, err := parseEndpoints(u.Name, endpoints); err != nil {
			return err
		}
	}
	if u.Connections < 0 || u.Connections > maxConnections {
		return fmt.Errorf("upstream %s: connections must be a number from 1 to %d", u.Name, maxConnections)
	}
	if err := cmp.Or(u.Downloads.check(), u.Source.Check(), u.Policy.Check(u.Name)); err != nil {
		return fmt.Errorf("upstream %s: %w", u.Name, err)
	}
	return nil
}

// parseEndpoints parses the endpoints of an upstream. If the first one is empty, it is
// derived from the name.
func parseEndpoints(name string, urls []string) ([]*url.URL, error) {
	switch {
	case urls[0] != "":
	case name == dockerHub:
		urls[0] = "https://registry-1.docker.io"
	default:
		urls[0] = "https://" + name
	}
	parsed, err := parse.Endpoints(urls)
	if err != nil {
		return nil, fmt.Errorf("upstream %s: %w", name, err)
	}
	return parsed, nil
}

func (u *GroupUpstream) check() error {
	if u == nil {
		return errors.New("an upstream of a group is null")
	}
	if !u.IsConfigured() {
		return fmt.Errorf("upstream %s of a group has no credentials; write `credentials USERNAME {env.PASSWORD}` in it", u.Name)
	}
	if err := u.Source.Check(); err != nil {
		return fmt.Errorf("upstream %s: %w", u.Name, err)
	}
	return nil
}

func checkRealm(realm string) error {
	if realm == "" {
		return nil
	}
	u, err := url.Parse(realm)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || !validAuthority(u.Host) || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("invalid realm '%s'; use an absolute URL such as https://registry.example.com/jwt/auth", realm)
	}
	return nil
}

func checkSiteName(name string) error {
	if len(name) > 255 || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("the site's name must be printable ASCII without spaces, at most 255 characters")
	}
	return nil
}

func groupPath(g *Group) string                 { return g.Path }
func upstreamName(u *Upstream) string           { return u.Name }
func groupUpstreamName(u *GroupUpstream) string { return u.Name }

// check checks the whole configuration.
func (h *Handler) check() error {
	err := cmp.Or(h.Token.check(), checkRealm(h.Realm), checkSiteName(h.Name),
		parse.Each("group", h.Groups, groupPath, (*Group).check), parse.Each("upstream", h.Upstreams, upstreamName, (*Upstream).check))
	if err != nil {
		return err
	}
	for _, g := range h.Groups {
		if err := parse.Each("group "+g.Path+": upstream", g.Upstreams, groupUpstreamName, (*GroupUpstream).check); err != nil {
			return err
		}
	}
	return cmp.Or(h.checkNames(), h.checkWhole())
}

// checkWhole makes the checks that need more than one line of a Caddyfile.
func (h *Handler) checkWhole() error {
	for _, g := range h.Groups {
		for _, gu := range g.Upstreams {
			if h.declaredUpstream(gu.Name) == nil {
				return fmt.Errorf("group %s: the upstream %s is not declared; write `upstream %s` beside the groups", g.Path, gu.Name, gu.Name)
			}
		}
	}
	for _, u := range h.Upstreams {
		if err := u.checkTransport(); err != nil {
			return err
		}
	}
	return cmp.Or(h.checkPatternUpstreams(), h.checkSomebodyMayPull())
}

// declaredUpstream returns the upstream with a name, or nil.
func (h *Handler) declaredUpstream(name string) *Upstream {
	for _, u := range h.Upstreams {
		if u.Name == name {
			return u
		}
	}
	if len(h.Upstreams) == 0 && name == dockerHub {
		return &Upstream{Name: dockerHub}
	}
	return nil
}

// checkSomebodyMayPull rejects a configuration in which no request could ever be
// allowed. A group is sufficient, even without members and accounts, because access
// tokens of the group can be created later. Directories other than static may have
// groups of their own.
func (h *Handler) checkSomebodyMayPull() error {
	if len(h.Groups) == 0 && !slices.ContainsFunc(h.DirectoriesRaw, notStatic) {
		return errors.New("nobody can ever pull: there is no group; write `group NAME { members NAME... }`")
	}
	return nil
}

// notStatic reports whether a directory is of another type than static.
func notStatic(raw json.RawMessage) bool {
	var module struct{ Type string }
	return json.Unmarshal(raw, &module) == nil && module.Type != "static"
}

// checkNames checks the names of accounts and directories, as checkLines does for a
// Caddyfile.
func (h *Handler) checkNames() error {
	l, err := access.ListDirectories(h.DirectoriesRaw)
	if err != nil {
		return err
	}
	check := func(prefix, option string, entries []string, resolve resolver) {
		for _, entry := range entries {
			if _, invalid := resolve(l, option, entry); invalid != nil && err == nil {
				err = fmt.Errorf("%s%w", prefix, invalid)
			}
		}
	}
	check("", "admins", h.Admins, access.Directories.Account)
	check("", "blocked", h.Blocked, access.Directories.Blocked)
	for _, g := range h.Groups {
		prefix := "group " + g.Path + ": "
		check(prefix, "members", g.Members, access.Directories.Account)
		check(prefix, "maintainers", g.Maintainers, access.Directories.Account)
		check(prefix, "owners", g.Owners, access.Directories.Account)
		check(prefix, "members_from", g.MembersFrom, access.Directories.MemberDirectory)
	}
	return err
}

// checkPatterns checks the syntax of the allow and deny patterns.
func (g *Group) checkPatterns() error {
	for line, patterns := range map[string][]string{"allow": g.Allow, "deny": g.Deny} {
		if patterns != nil && len(patterns) == 0 {
			return fmt.Errorf("group %s: %s is empty; write patterns, or leave it out", g.Path, line)
		}
	}
	_, err := access.NewImageLimits(accessGroups(g))
	return err
}

// checkPatternUpstreams checks that each pattern starts with a declared upstream.
func (h *Handler) checkPatternUpstreams() error {
	declared := []string{dockerHub}
	if len(h.Upstreams) > 0 {
		declared = nil
		for _, u := range h.Upstreams {
			declared = append(declared, u.Name)
		}
	}
	limits, err := access.NewImageLimits(accessGroups(h.Groups...))
	return cmp.Or(err, limits.CheckUpstreams(declared))
}

// resolver finds the account or the directory that an entry of a line names. The
// option is the name of the line.
type resolver func(l access.Directories, option, entry string) (access.ID, error)

// accountLine is an entry of a Caddyfile's line that names accounts or directories.
// It can be resolved when all directories are known.
type accountLine struct {
	at            caddyfile.Dispenser // the position, for errors
	option, entry string
	resolve       resolver
}

// accountArgs parses a line of accounts or directories and keeps it for checkLines.
func (h *Handler) accountArgs(d *caddyfile.Dispenser, to *[]string, resolve resolver) error {
	option, before := d.Val(), len(*to)
	if err := parse.Args(d, to); err != nil {
		return err
	}
	for _, entry := range (*to)[before:] {
		h.lines = append(h.lines, accountLine{*d, option, entry, resolve})
	}
	return nil
}

// checkLines resolves the lines that name accounts. Errors have their position.
func (h *Handler) checkLines(l access.Directories) error {
	for _, line := range h.lines {
		if _, err := line.resolve(l, line.option, line.entry); err != nil {
			return line.at.WrapErr(err)
		}
	}
	return nil
}
