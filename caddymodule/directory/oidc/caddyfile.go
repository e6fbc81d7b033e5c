package oidc

import (
	"cmp"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
)

// UnmarshalCaddyfile sets up the directory from Caddyfile tokens. An audience, and a map
// or a requirement, are required; map and require may be repeated, and a value may end
// in *:
//
//	directory oidc <issuer url> {
//		name      <name>
//		audience  <audience>...
//		account   <claim>
//		require   <claim> <value>...
//		map       <claim> <value> -> <group> [member|maintainer|owner]
//		max_age   <duration>
//		transport <module> ...
//	}
func (o *Directory) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	if !d.NextArg() {
		return d.Err("write the issuer's URL: `directory oidc https://ISSUER { ... }`")
	}
	o.Issuer = d.Val()
	if err := cmp.Or(parse.End(d), parse.At(d, checkIssuer(o.Issuer))); err != nil {
		return err
	}
	err := parse.Lines(d, "directory oidc", map[string]func(*caddyfile.Dispenser) error{
		"name":     func(d *caddyfile.Dispenser) error { return directory.ReadName(d, &o.Name) },
		"audience": func(d *caddyfile.Dispenser) error { return parse.Args(d, &o.Audiences) },
		"account":  func(d *caddyfile.Dispenser) error { return parse.Arg(d, &o.Account) },
		"require":  o.unmarshalRequire,
		"map":      o.unmarshalMap,
		"max_age":  func(d *caddyfile.Dispenser) error { return parse.Duration(d, &o.MaxAge) },
		"transport": func(d *caddyfile.Dispenser) (err error) {
			o.TransportRaw, err = parse.Module(d, "http.reverse_proxy.transport.", "protocol")
			return err
		},
	})
	if err != nil {
		return err
	}
	return parse.At(d, o.check())
}

func (o *Directory) unmarshalRequire(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) < 2 {
		return d.Err("write `require CLAIM VALUE...`")
	}
	required := &Requirement{Claim: args[0], Values: args[1:]}
	o.Require = append(o.Require, required)
	return parse.At(d, cmp.Or(required.check(), parse.Unique("require", o.Require, requiredClaim)))
}

func (o *Directory) unmarshalMap(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	m := new(Map)
	if len(args) < 2 || !directory.ReadMapping(args[2:], &m.Group, &m.Role) {
		return d.Err("write `map CLAIM VALUE -> GROUP [member|maintainer|owner]`")
	}
	m.Claim, m.Value = args[0], args[1]
	o.Maps = append(o.Maps, m)
	return parse.At(d, m.check())
}

var _ caddyfile.Unmarshaler = (*Directory)(nil)
