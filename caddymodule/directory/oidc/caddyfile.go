package oidc

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
)

// UnmarshalCaddyfile reads the directory. An audience and a map or a
// requirement must be there; map and require may be repeated, and a value may
// end in *:
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
	if len(args) < 4 || len(args) > 5 || args[2] != "->" {
		return d.Err("write `map CLAIM VALUE -> GROUP`, and a role after it if it is not that of a member")
	}
	m := &Map{Claim: args[0], Value: args[1], Group: args[3]}
	if len(args) == 5 {
		m.Role = args[4]
	}
	o.Maps = append(o.Maps, m)
	return parse.At(d, m.check())
}

func requiredClaim(r *Requirement) string { return r.Claim }

// check is all of it, for those who write JSON.
func (o *Directory) check() error {
	if err := checkIssuer(o.Issuer); err != nil {
		return err
	}
	if len(o.Audiences) == 0 {
		return fmt.Errorf("directory oidc: nothing says for whom the tokens of %s must be; write `audience NAME`, the name that is asked for with them", o.Issuer)
	}
	for _, audience := range o.Audiences {
		if audience == "" || strings.Contains(audience, "*") {
			return fmt.Errorf("audience '%s': write it in full", audience)
		}
	}
	if o.Account != "" {
		if err := checkClaim(o.Account); err != nil {
			return fmt.Errorf("account: %w", err)
		}
	}
	if age := time.Duration(o.MaxAge); age != 0 && age < time.Minute {
		return fmt.Errorf("max_age %v: write a duration of at least 1m", age)
	}
	if err := parse.Each("require", o.Require, requiredClaim, (*Requirement).check); err != nil {
		return err
	}
	for _, m := range o.Maps {
		if err := m.check(); err != nil {
			return err
		}
	}
	if len(o.Require)+len(o.Maps) == 0 {
		return fmt.Errorf("directory oidc: everybody whom %s knows would get in; write `map CLAIM VALUE -> GROUP` or `require CLAIM VALUE`", o.Issuer)
	}
	return nil
}

func checkIssuer(issuer string) error {
	u, err := url.Parse(issuer)
	if err != nil || u.Host == "" || u.User != nil || strings.ContainsAny(issuer, "?#*") ||
		u.Scheme != "https" && (u.Scheme != "http" || !isLoopback(u)) {
		return errors.New("directory oidc: the issuer is not a URL as in https://issuer.example.com; write what its tokens have in `iss`")
	}
	return nil
}

func (r *Requirement) check() error {
	if r == nil {
		return errors.New("a requirement is null")
	}
	if len(r.Values) == 0 {
		return fmt.Errorf("require %s has no value", r.Claim)
	}
	for _, value := range r.Values {
		if err := cmp.Or(checkClaim(r.Claim), checkPattern(value)); err != nil {
			return fmt.Errorf("require %s: %w", r.Claim, err)
		}
	}
	return nil
}

func (m *Map) check() error {
	if m == nil {
		return errors.New("a map is null")
	}
	if err := cmp.Or(checkClaim(m.Claim), checkPattern(m.Value), directory.CheckGroupPath(m.Group)); err != nil {
		return fmt.Errorf("map %s: %w", m.Claim, err)
	}
	if _, ok := directory.ParseRole(cmp.Or(m.Role, "member")); !ok {
		return fmt.Errorf("map %s: '%s' is no role; write member, maintainer or owner", m.Claim, m.Role)
	}
	return nil
}

func checkClaim(claim string) error {
	if claim == "" || claim == "/" || strings.ContainsFunc(claim, isBlank) {
		return fmt.Errorf("'%s' is no claim; write a name as in sub, or a JSON pointer as in /kubernetes.io/namespace", claim)
	}
	return nil
}

func checkPattern(value string) error {
	if value == "" || strings.Contains(strings.TrimSuffix(value, "*"), "*") {
		return fmt.Errorf("'%s' is no value; a * may be at its end, for all that begin alike", value)
	}
	return nil
}

var _ caddyfile.Unmarshaler = (*Directory)(nil)
