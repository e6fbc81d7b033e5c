package static

import (
	"cmp"
	"errors"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
)

// UnmarshalCaddyfile sets up the directory from Caddyfile tokens. All lines are
// optional, and user may be repeated:
//
//	directory static {
//		name       <name>
//		user       <name> <password hash>
//		users_file <path>
//		hash       <module> ...
//	}
//
// hash is a module of http.authentication.hashes for hashes that are neither bcrypt
// nor argon2id.
func (s *Directory) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	if err := parse.End(d); err != nil {
		return err
	}
	var unknown error // for the first hash of an unknown kind
	err := parse.Lines(d, "directory static", map[string]func(*caddyfile.Dispenser) error{
		"name": func(d *caddyfile.Dispenser) error { return directory.ReadName(d, &s.Name) },
		"user": func(d *caddyfile.Dispenser) error {
			err := s.UnmarshalUser(d)
			if errors.Is(err, ErrUnknownHash) {
				unknown = cmp.Or(unknown, err)
				return nil
			}
			return err
		},
		"users_file": func(d *caddyfile.Dispenser) error { return parse.ArgOnce(d, &s.UsersFile) },
		"hash":       s.unmarshalHash,
	})
	if err == nil && s.HashRaw == nil {
		err = unknown
	}
	return err
}

// unmarshalHash reads the `hash` line. A module without settings may lack a Caddyfile
// form.
func (s *Directory) unmarshalHash(d *caddyfile.Dispenser) error {
	const namespace, key = "http.authentication.hashes.", "algorithm"
	if s.HashRaw == nil && d.NextArg() {
		name := d.Val()
		if info, err := caddy.GetModule(namespace + name); err == nil {
			module := info.New()
			if _, reads := module.(caddyfile.Unmarshaler); !reads {
				s.HashRaw = caddyconfig.JSONModuleObject(module, key, name, nil)
				return parse.End(d)
			}
		}
		d.Prev()
	}
	return parse.ModuleOnce(d, namespace, key, &s.HashRaw)
}

// UnmarshalUser reads a `user` line.
func (s *Directory) UnmarshalUser(d *caddyfile.Dispenser) error {
	u := new(User)
	if !d.AllArgs(&u.Name, &u.Hash) {
		return d.Err("write `user NAME HASH`, the hash as `caddy hash-password` prints it")
	}
	s.Users = append(s.Users, u)
	return parse.At(d, cmp.Or(u.Check(), parse.Unique("user", s.Users, userName)))
}

var _ caddyfile.Unmarshaler = (*Directory)(nil)
