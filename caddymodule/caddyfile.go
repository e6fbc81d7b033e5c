package caddymodule

import (
	"cmp"
	"encoding/json"
	"maps"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/access"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/static"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/peers"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("dependency_proxy", parseCaddyfile)
	// Directives that answer all requests must come after this one.
	httpcaddyfile.RegisterDirectiveOrder("dependency_proxy", httpcaddyfile.Before, "respond")
}

func parseCaddyfile(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	return handler, handler.UnmarshalCaddyfile(h.Dispenser)
}

// UnmarshalCaddyfile parses the directive. All lines are optional, except for a group.
// The lines user, directory, group and upstream can be repeated:
//
//	dependency_proxy {
//		name           <site>
//		storage        <module> ...
//		user           <name> <password hash>
//		directory      <module> ...
//		group          <path> { ... }
//		upstream       <name> { ... }
//		token          { ... }
//		realm          <url>
//		private_groups on|off
//		offline        on|off
//		metrics        { ... }
//		peers          { ... }
//		admins         <account>...
//		blocked        <account>...
//	}
//
// The user lines form the directory static; a block `directory static` in addition
// needs another name. An account is written as DIRECTORY:NAME, or as a bare name for
// an account of a user line or of the only directory. A bare name in blocked means
// that name in every directory.
//
// The blocks are described at [Handler.unmarshalGroup], [Handler.unmarshalUpstream],
// [Token.UnmarshalCaddyfile], [metrics.Config.UnmarshalCaddyfile] and
// [peers.Config.UnmarshalCaddyfile].
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive
	if err := parse.End(d); err != nil {
		return err
	}
	users := new(static.Directory)
	blocks := map[string]func(*caddyfile.Dispenser) error{
		"name": func(d *caddyfile.Dispenser) error {
			if err := parse.Arg(d, &h.Name); err != nil {
				return err
			}
			return parse.At(d, checkSiteName(h.Name))
		},
		"storage": h.unmarshalStorage,
		"user": func(d *caddyfile.Dispenser) error {
			if err := users.UnmarshalUser(d); err != nil {
				return err
			}
			return parse.At(d, h.checkDirectories(users))
		},
		"directory": func(d *caddyfile.Dispenser) error {
			if err := h.unmarshalDirectory(d); err != nil {
				return err
			}
			return parse.At(d, h.checkDirectories(users))
		},
		"group":    h.unmarshalGroup,
		"upstream": h.unmarshalUpstream,
		"token":    h.Token.UnmarshalCaddyfile,
		"realm": func(d *caddyfile.Dispenser) error {
			if err := parse.Arg(d, &h.Realm); err != nil {
				return err
			}
			return parse.At(d, checkRealm(h.Realm))
		},
		"private_groups": func(d *caddyfile.Dispenser) error {
			on, err := parse.OnOff(d)
			h.PrivateGroups = &on
			return err
		},
		"offline": func(d *caddyfile.Dispenser) (err error) { h.Offline, err = parse.OnOff(d); return err },
		"metrics": h.Metrics.UnmarshalCaddyfile,
		"peers":   func(d *caddyfile.Dispenser) error { return peers.UnmarshalOnce(d, &h.Peers) },
		"admins":  func(d *caddyfile.Dispenser) error { return h.accountArgs(d, &h.Admins, access.Directories.Account) },
		"blocked": func(d *caddyfile.Dispenser) error { return h.accountArgs(d, &h.Blocked, access.Directories.Blocked) },
	}
	if err := parse.Lines(d, "dependency_proxy", blocks); err != nil {
		return err
	}
	h.DirectoriesRaw = h.withUsers(users)
	directories, err := access.ListDirectories(h.DirectoriesRaw)
	if err != nil {
		return d.WrapErr(err)
	}
	if err := h.checkLines(directories); err != nil {
		return err
	}
	return parse.At(d, h.checkWhole())
}

// withUsers returns the directories, the first of which is that of the user lines.
func (h *Handler) withUsers(users *static.Directory) []json.RawMessage {
	if len(users.Users) == 0 {
		return h.DirectoriesRaw
	}
	raw := caddyconfig.JSONModuleObject(users, "type", "static", nil)
	return append([]json.RawMessage{raw}, h.DirectoriesRaw...)
}

// checkDirectories returns an error if two directories have the same name. It is
// called after each directory, so that the error has the line of the second one.
func (h *Handler) checkDirectories(users *static.Directory) error {
	_, err := access.ListDirectories(h.withUsers(users))
	return err
}

// unmarshalStorage parses
//
//	storage <module> ...
func (h *Handler) unmarshalStorage(d *caddyfile.Dispenser) error {
	if h.StorageRaw != nil {
		return d.Err("storage is already set")
	}
	raw, err := parse.Module(d, "http.dependency_proxy.storage.", "type")
	h.StorageRaw = raw
	return err
}

// unmarshalDirectory parses
//
//	directory <module> ...
func (h *Handler) unmarshalDirectory(d *caddyfile.Dispenser) error {
	raw, err := parse.Module(d, "http.dependency_proxy.directory.", "type")
	h.DirectoriesRaw = append(h.DirectoriesRaw, raw)
	return err
}

// unmarshalGroup parses
//
//	group <path> {
//		visibility   private|internal|public
//		members      <account>...
//		maintainers  <account>...
//		owners       <account>...
//		members_from <directory>...
//		quota        <size>
//		allow        <pattern>...
//		deny         <pattern>...
//		upstream     <name> {
//			<login>
//		}
//	}
//
// A login is described at [credential.Source.Lines].
func (h *Handler) unmarshalGroup(d *caddyfile.Dispenser) error {
	g := new(Group)
	if err := parse.Arg(d, &g.Path); err != nil {
		return err
	}
	h.Groups = append(h.Groups, g)
	if err := cmp.Or(g.check(), parse.Unique("group", h.Groups, groupPath)); err != nil {
		return d.WrapErr(err)
	}
	return parse.Lines(d, "group", map[string]func(*caddyfile.Dispenser) error{
		"visibility": func(d *caddyfile.Dispenser) error {
			if err := parse.Arg(d, (*string)(&g.Visibility)); err != nil {
				return err
			}
			return parse.At(d, g.check())
		},
		"members": func(d *caddyfile.Dispenser) error { return h.accountArgs(d, &g.Members, access.Directories.Account) },
		"maintainers": func(d *caddyfile.Dispenser) error {
			return h.accountArgs(d, &g.Maintainers, access.Directories.Account)
		},
		"owners": func(d *caddyfile.Dispenser) error { return h.accountArgs(d, &g.Owners, access.Directories.Account) },
		"members_from": func(d *caddyfile.Dispenser) error {
			return h.accountArgs(d, &g.MembersFrom, access.Directories.MemberDirectory)
		},
		"quota":    func(d *caddyfile.Dispenser) error { return parse.Size(d, &g.Quota) },
		"allow":    func(d *caddyfile.Dispenser) error { return g.unmarshalPatterns(d, &g.Allow) },
		"deny":     func(d *caddyfile.Dispenser) error { return g.unmarshalPatterns(d, &g.Deny) },
		"upstream": g.unmarshalUpstream,
	})
}

func (g *Group) unmarshalPatterns(d *caddyfile.Dispenser, to *[]string) error {
	if err := parse.Args(d, to); err != nil {
		return err
	}
	return parse.At(d, g.checkPatterns())
}

func (g *Group) unmarshalUpstream(d *caddyfile.Dispenser) error {
	u := new(GroupUpstream)
	if err := parse.Arg(d, &u.Name); err != nil {
		return err
	}
	g.Upstreams = append(g.Upstreams, u)
	if err := parse.Lines(d, "group upstream", u.Source.Lines()); err != nil {
		return err
	}
	return parse.At(d, cmp.Or(u.check(), parse.Unique("group "+g.Path+": upstream", g.Upstreams, groupUpstreamName)))
}

// unmarshalUpstream parses
//
//	upstream <name> {
//		endpoint      <url>...
//		<login>
//		<freshness>
//		connections   <number>
//		downloads     { ... }
//		allow_private [on|off]
//		realm_hosts   <host>...
//		transport     <module> ...
//	}
//
// A login is described at [credential.Source.Lines], freshness at
// [freshness.Policy.Lines], and the block downloads at [Downloads.UnmarshalCaddyfile].
func (h *Handler) unmarshalUpstream(d *caddyfile.Dispenser) error {
	u := new(Upstream)
	if err := parse.Arg(d, &u.Name); err != nil {
		return err
	}
	h.Upstreams = append(h.Upstreams, u)
	if err := cmp.Or(u.check(), parse.Unique("upstream", h.Upstreams, upstreamName)); err != nil {
		return d.WrapErr(err)
	}
	lines := u.Source.Lines()
	maps.Copy(lines, u.Policy.Lines(u.Name))
	maps.Copy(lines, map[string]func(*caddyfile.Dispenser) error{
		"endpoint": func(d *caddyfile.Dispenser) error {
			var endpoints []string
			if err := parse.Args(d, &endpoints); err != nil {
				return err
			}
			u.Endpoint, u.FallbackEndpoints = endpoints[0], endpoints[1:]
			return parse.At(d, u.check())
		},
		"connections": func(d *caddyfile.Dispenser) error { return parse.Int(d, maxConnections, &u.Connections) },
		"downloads":   u.Downloads.UnmarshalCaddyfile,
		"realm_hosts": func(d *caddyfile.Dispenser) error { return parse.Args(d, &u.RealmHosts) },
		"allow_private": func(d *caddyfile.Dispenser) (err error) {
			if u.AllowPrivate = true; d.CountRemainingArgs() > 0 {
				u.AllowPrivate, err = parse.OnOff(d)
			}
			return err
		},
		"transport": func(d *caddyfile.Dispenser) (err error) {
			u.TransportRaw, err = parse.Module(d, "http.reverse_proxy.transport.", "protocol")
			return err
		},
	})
	if err := parse.Lines(d, "upstream", lines); err != nil {
		return err
	}
	return parse.At(d, u.checkTransport()) // at the end, because it depends on allow_private
}
