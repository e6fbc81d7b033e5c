package authentication

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/static"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
)

// UnmarshalCaddyfile reads the directory, with a block that is the provider's,
// or with one that is the directory's:
//
//	directory authentication <module> ...
//
//	directory authentication {
//		name     <name>
//		provider <module> ...
//		groups   <metadata key>
//		max_age  <duration>
//	}
func (a *Directory) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // this module's name
	if d.CountRemainingArgs() > 0 {
		if err := a.unmarshalProvider(d); err != nil {
			return err
		}
		return parse.At(d, a.check())
	}
	err := parse.Lines(d, "directory authentication", map[string]func(*caddyfile.Dispenser) error{
		"name":     func(d *caddyfile.Dispenser) error { return directory.ReadName(d, &a.Name) },
		"provider": a.unmarshalProvider,
		"groups":   func(d *caddyfile.Dispenser) error { return parse.Arg(d, &a.Groups) },
		"max_age":  func(d *caddyfile.Dispenser) error { return parse.Duration(d, &a.MaxAge) },
	})
	if err != nil {
		return err
	}
	return parse.At(d, a.check())
}

func (a *Directory) unmarshalProvider(d *caddyfile.Dispenser) (err error) {
	if a.ProviderRaw != nil {
		return d.Err("provider is there twice")
	}
	if d.NextArg() {
		if d.Val() == "http_basic" {
			a.ProviderRaw, err = unmarshalHTTPBasic(d)
			return err
		}
		d.Prev()
	}
	a.ProviderRaw, err = parse.Module(d, "http.authentication.providers.", "type")
	return err
}

// unmarshalHTTPBasic reads what Caddy's `basic_auth` does, but for the realm,
// which nobody would see:
//
//	http_basic [bcrypt|argon2id] {
//		<user name> <password hash>
//	}
func unmarshalHTTPBasic(d *caddyfile.Dispenser) (json.RawMessage, error) {
	algorithm := "bcrypt"
	if d.NextArg() {
		algorithm = d.Val()
	}
	if algorithm != "bcrypt" && algorithm != "argon2id" {
		return nil, d.Errf("http_basic: '%s' is neither bcrypt nor argon2id", algorithm)
	}
	if err := parse.End(d); err != nil {
		return nil, err
	}
	basic := caddyauth.HTTPBasicAuth{HashRaw: json.RawMessage(`{"algorithm":"` + algorithm + `"}`)}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		user := &static.User{Name: d.Val()}
		if args := d.RemainingArgs(); len(args) == 1 {
			user.Hash = args[0]
		} else {
			return nil, d.Err("write `NAME HASH`, the hash as `caddy hash-password` prints it")
		}
		if err := checkHTTPBasic(user, algorithm); err != nil {
			return nil, d.WrapErr(err)
		}
		basic.AccountList = append(basic.AccountList, caddyauth.Account{Username: user.Name, Password: user.Hash})
	}
	if len(basic.AccountList) == 0 {
		return nil, d.Err("http_basic has no account; write `NAME HASH` in its block")
	}
	return caddyconfig.JSONModuleObject(basic, "type", "http_basic", nil), nil
}

func checkHTTPBasic(user *static.User, algorithm string) error {
	if strings.HasPrefix(user.Hash, "$") {
		if err := user.Check(); err != nil {
			return err
		}
		if strings.HasPrefix(user.Hash, "$argon2id$") != (algorithm == "argon2id") {
			return fmt.Errorf("user %s: the hash is not %s; write `http_basic bcrypt` or `http_basic argon2id`, as the hashes are", user.Name, algorithm)
		}
	}
	return nil
}

var _ caddyfile.Unmarshaler = (*Directory)(nil)
