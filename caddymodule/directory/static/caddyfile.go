package static

import (
	"cmp"
	"encoding/json"
	"errors"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
)

// UnmarshalCaddyfile reads accounts beside which other directories may stand,
// each line optional and user repeatable:
//
//	directory static {
//		name       <name>
//		user       <name> <password hash>
//		users_file <path>
//		hash       <module> ...
//	}
//
// hash names a module of http.authentication.hashes for the hashes that are
// neither bcrypt nor argon2id.
func (s *Directory) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	if err := parse.End(d); err != nil {
		return err
	}
	var unknown error // of the first user whose hash is for the module
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
		"users_file": func(d *caddyfile.Dispenser) error {
			if s.UsersFile != "" {
				return d.Err("users_file is there twice")
			}
			return parse.Arg(d, &s.UsersFile)
		},
		"hash": s.unmarshalHash,
	})
	if err == nil && s.HashRaw == nil {
		err = unknown
	}
	return err
}

func (s *Directory) unmarshalHash(d *caddyfile.Dispenser) (err error) {
	if s.HashRaw != nil {
		return d.Err("hash is there twice")
	}
	s.HashRaw, err = moduleOrBare(d, "http.authentication.hashes.", "algorithm")
	return err
}

// moduleOrBare is guest for modules of which some read no Caddyfile, since they
// have nothing to be set.
func moduleOrBare(d *caddyfile.Dispenser, namespace, key string) (json.RawMessage, error) {
	if d.NextArg() {
		name := d.Val()
		if info, err := caddy.GetModule(namespace + name); err == nil {
			module := info.New()
			if _, reads := module.(caddyfile.Unmarshaler); !reads {
				return caddyconfig.JSONModuleObject(module, key, name, nil), parse.End(d)
			}
		}
		d.Prev()
	}
	return parse.Module(d, namespace, key)
}

func (s *Directory) UnmarshalUser(d *caddyfile.Dispenser) error {
	u := new(User)
	if !d.AllArgs(&u.Name, &u.Hash) {
		return d.Err("write `user NAME HASH`, the hash as `caddy hash-password` prints it")
	}
	s.Users = append(s.Users, u)
	return parse.At(d, cmp.Or(u.Check(), parse.Unique("user", s.Users, userName)))
}
