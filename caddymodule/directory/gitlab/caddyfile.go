package gitlab

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
)

// UnmarshalCaddyfile sets up the directory from Caddyfile tokens. The token is required:
//
//	directory gitlab <url> {
//		name         <name>
//		token        <placeholder>
//		cache_for    <duration>
//		grace        <duration>
//		token_prefix <prefix>
//		members_only [on|off]
//		groups       <pattern>...
//		transport    <module> ...
//	}
func (d *Directory) UnmarshalCaddyfile(disp *caddyfile.Dispenser) error {
	disp.Next() // the module's name
	if err := parse.Arg(disp, &d.URL); err != nil {
		return disp.Err("write `directory gitlab https://gitlab.example.com { token {file./run/secrets/gitlab} }`")
	}
	if err := d.checkURL(); err != nil {
		return disp.WrapErr(err)
	}
	if err := parse.Lines(disp, "directory gitlab", map[string]func(*caddyfile.Dispenser) error{
		"name": func(disp *caddyfile.Dispenser) error { return directory.ReadName(disp, &d.Name) },
		"token": func(disp *caddyfile.Dispenser) error {
			if err := parse.Arg(disp, &d.Token); err != nil {
				return err
			}
			return parse.At(disp, d.checkServiceToken())
		},
		"cache_for":    func(disp *caddyfile.Dispenser) error { return parse.Duration(disp, &d.CacheFor) },
		"grace":        func(disp *caddyfile.Dispenser) error { return parse.Duration(disp, &d.Grace) },
		"token_prefix": func(disp *caddyfile.Dispenser) error { return parse.Arg(disp, &d.TokenPrefix) },
		"members_only": func(disp *caddyfile.Dispenser) (err error) {
			on := true
			if disp.CountRemainingArgs() > 0 {
				on, err = parse.OnOff(disp)
			}
			d.MembersOnly = &on
			return err
		},
		"groups": func(disp *caddyfile.Dispenser) error {
			if err := parse.Args(disp, &d.Groups); err != nil {
				return err
			}
			return parse.At(disp, d.checkGroups())
		},
		"transport": func(disp *caddyfile.Dispenser) (err error) {
			d.TransportRaw, err = parse.Module(disp, "http.reverse_proxy.transport.", "protocol")
			return err
		},
	}); err != nil {
		return err
	}
	return parse.At(disp, d.check())
}

var _ caddyfile.Unmarshaler = (*Directory)(nil)
