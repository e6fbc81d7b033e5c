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

// What is wrong with a configuration by itself is found here: when a Caddyfile
// is read, so that the error has a line, and when a module is provisioned, for
// those who write JSON. What depends on the machine is found by Provision.

func (g *Group) check() error {
	if g == nil {
		return errors.New("a group is null")
	}
	if err := directory.CheckGroupPath(g.Path); err != nil {
		return err
	}
	if g.Quota < 0 {
		return fmt.Errorf("group %s: the quota is less than nothing; write a number of bytes", g.Path)
	}
	switch g.Visibility {
	case "", directory.Private, directory.Internal, directory.Public:
		return g.checkPatterns()
	}
	return fmt.Errorf("group %s: visibility '%s': write private, internal or public", g.Path, g.Visibility)
}

func (u *Upstream) check() error {
	if u == nil {
		return errors.New("an upstream is null")
	}
	if !reference.ValidRepository(u.Name) || strings.Contains(u.Name, "/") {
		return fmt.Errorf("upstream '%s': the name is the first component of image names: lower-case letters and digits, separated by . _ __ or -", u.Name)
	}
	if !strings.Contains(u.Endpoint, "{") {
		if _, err := parseEndpoint(u.Name, u.Endpoint); err != nil {
			return err
		}
	}
	if u.Connections < 0 || u.Connections > maxConnections {
		return fmt.Errorf("upstream %s: connections are a number from 1 to %d", u.Name, maxConnections)
	}
	if err := cmp.Or(u.Downloads.check(), u.Credentials.check()); err != nil {
		return fmt.Errorf("upstream %s: %w", u.Name, err)
	}
	return nil
}

// parseEndpoint fills in what is known about a registry by its name. The
// endpoint may be wrong by having a password in it, so errors do not show it.
func parseEndpoint(name, endpoint string) (*url.URL, error) {
	switch {
	case endpoint != "":
	case name == dockerHub:
		endpoint = "https://registry-1.docker.io"
	default:
		endpoint = "https://" + name
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("upstream %s: the endpoint is not a URL as in https://registry.example.com", name)
	}
	return u, nil
}

func (u *GroupUpstream) check() error {
	if u == nil {
		return errors.New("an upstream of a group is null")
	}
	if u.Credentials == nil {
		return fmt.Errorf("upstream %s of a group has nothing of its own; write `credentials USERNAME {env.PASSWORD}` in it", u.Name)
	}
	if err := u.Credentials.check(); err != nil {
		return fmt.Errorf("upstream %s: %w", u.Name, err)
	}
	return nil
}

func (c *Credentials) check() error {
	switch {
	case c == nil:
		return nil
	case c.Username == "":
		return errors.New("the user name of the credentials is empty")
	case !parse.IsPlaceholder(c.Password):
		return errors.New("the password of the credentials stands in the configuration, where the admin API shows it; write a placeholder as in {env.HUB_TOKEN} or {file./run/secrets/hub_token}")
	}
	return nil
}

func checkRealm(realm string) error {
	if realm == "" {
		return nil
	}
	u, err := url.Parse(realm)
	if err != nil || (u.Scheme != "https" && u.Scheme != "http") || !validAuthority(u.Host) || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return fmt.Errorf("realm '%s': write an absolute URL as in https://registry.example.com/jwt/auth", realm)
	}
	return nil
}

func checkSiteName(name string) error {
	if len(name) > 255 || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return errors.New("the site's name must be printable ASCII without spaces, 255 characters at most")
	}
	return nil
}

func groupPath(g *Group) string                 { return g.Path }
func upstreamName(u *Upstream) string           { return u.Name }
func groupUpstreamName(u *GroupUpstream) string { return u.Name }

// check is all of it, for those who write JSON.
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

// checkWhole checks what only the whole configuration can tell.
func (h *Handler) checkWhole() error {
	for _, g := range h.Groups {
		for _, gu := range g.Upstreams {
			if h.declared(gu.Name) == nil {
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

func (h *Handler) declared(name string) *Upstream {
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

// checkSomebodyMayPull refuses a configuration that can only have been meant
// otherwise. A group is enough: it may have no member and the site no account,
// since access tokens of the group are made while it runs. What groups other
// directories than the configuration's own know cannot be told beforehand.
func (h *Handler) checkSomebodyMayPull() error {
	if len(h.Groups) == 0 && !slices.ContainsFunc(h.DirectoriesRaw, notStatic) {
		return errors.New("nobody can ever pull: there is no group; write `group NAME { members NAME... }`")
	}
	return nil
}

// notStatic tells whether a directory's accounts are elsewhere than in the
// configuration.
func notStatic(raw json.RawMessage) bool {
	var module struct{ Type string }
	return json.Unmarshal(raw, &module) == nil && module.Type != "static"
}

// checkNames is checkLines for those who write JSON.
func (h *Handler) checkNames() error {
	l, err := access.ListDirectories(h.DirectoriesRaw)
	if err != nil {
		return err
	}
	check := func(where, word string, entries []string, read resolver) {
		for _, entry := range entries {
			if _, wrong := read(l, word, entry); wrong != nil && err == nil {
				err = fmt.Errorf("%s%w", where, wrong)
			}
		}
	}
	check("", "admins", h.Admins, access.Directories.Account)
	check("", "blocked", h.Blocked, access.Directories.Blocked)
	for _, g := range h.Groups {
		where := "group " + g.Path + ": "
		check(where, "members", g.Members, access.Directories.Account)
		check(where, "maintainers", g.Maintainers, access.Directories.Account)
		check(where, "owners", g.Owners, access.Directories.Account)
		check(where, "members_from", g.MembersFrom, access.Directories.MemberDirectory)
	}
	return err
}

// checkPatterns checks the syntax of the allow and deny lines.
func (g *Group) checkPatterns() error {
	for line, patterns := range map[string][]string{"allow": g.Allow, "deny": g.Deny} {
		if patterns != nil && len(patterns) == 0 {
			return fmt.Errorf("group %s: %s is empty; write patterns, or leave it out", g.Path, line)
		}
	}
	_, err := access.NewImageLimits(accessGroups(g))
	return err
}

// checkPatternUpstreams checks that each pattern begins with a declared upstream.
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

// resolver is how the entries of a line are read.
type resolver func(l access.Directories, word, entry string) (access.ID, error)

// accountLine is an entry of a Caddyfile's line that names accounts or a
// directory. What it means is known when all of the directive has been read.
type accountLine struct {
	at          caddyfile.Dispenser
	word, entry string
	read        resolver
}

// accountArgs reads a line of accounts, to be checked by checkLines.
func (h *Handler) accountArgs(d *caddyfile.Dispenser, to *[]string, read resolver) error {
	word, before := d.Val(), len(*to)
	if err := parse.Args(d, to); err != nil {
		return err
	}
	for _, entry := range (*to)[before:] {
		h.lines = append(h.lines, accountLine{*d, word, entry, read})
	}
	return nil
}

// checkLines checks the lines that name accounts, each at its place in the file.
func (h *Handler) checkLines(l access.Directories) error {
	for _, line := range h.lines {
		if _, err := line.read(l, line.word, line.entry); err != nil {
			return line.at.WrapErr(err)
		}
	}
	return nil
}
