package caddymodule

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// UnmarshalCaddyfile reads
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
func (d *GitLabDirectory) UnmarshalCaddyfile(disp *caddyfile.Dispenser) error {
	disp.Next() // the module's name
	if err := oneArg(disp, &d.URL); err != nil {
		return disp.Err("write `directory gitlab https://gitlab.example.com { token {file./run/secrets/gitlab} }`")
	}
	if err := d.checkURL(); err != nil {
		return disp.WrapErr(err)
	}
	if err := eachLine(disp, "directory gitlab", map[string]func(*caddyfile.Dispenser) error{
		"name": func(disp *caddyfile.Dispenser) error { return directoryName(disp, &d.Name) },
		"token": func(disp *caddyfile.Dispenser) error {
			if err := oneArg(disp, &d.Token); err != nil {
				return err
			}
			return here(disp, d.checkServiceToken())
		},
		"cache_for":    func(disp *caddyfile.Dispenser) error { return duration(disp, &d.CacheFor) },
		"grace":        func(disp *caddyfile.Dispenser) error { return duration(disp, &d.Grace) },
		"token_prefix": func(disp *caddyfile.Dispenser) error { return oneArg(disp, &d.TokenPrefix) },
		"members_only": func(disp *caddyfile.Dispenser) (err error) {
			on := true
			if disp.CountRemainingArgs() > 0 {
				on, err = onOff(disp)
			}
			d.MembersOnly = &on
			return err
		},
		"groups": func(disp *caddyfile.Dispenser) error {
			if err := someArgs(disp, &d.Groups); err != nil {
				return err
			}
			return here(disp, d.checkGroups())
		},
		"transport": func(disp *caddyfile.Dispenser) (err error) {
			d.TransportRaw, err = guest(disp, "http.reverse_proxy.transport.", "protocol")
			return err
		},
	}); err != nil {
		return err
	}
	return here(disp, d.check())
}

var _ caddyfile.Unmarshaler = (*GitLabDirectory)(nil)
