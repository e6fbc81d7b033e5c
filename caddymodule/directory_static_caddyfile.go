package caddymodule

import (
	"cmp"
	"encoding/json"
	"errors"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
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
func (s *StaticDirectory) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	if err := endOfLine(d); err != nil {
		return err
	}
	var unknown error // of the first user whose hash is for the module
	err := eachLine(d, "directory static", map[string]func(*caddyfile.Dispenser) error{
		"name": func(d *caddyfile.Dispenser) error { return directoryName(d, &s.Name) },
		"user": func(d *caddyfile.Dispenser) error {
			err := s.unmarshalUser(d)
			if errors.Is(err, errUnknownHash) {
				unknown = cmp.Or(unknown, err)
				return nil
			}
			return err
		},
		"users_file": func(d *caddyfile.Dispenser) error {
			if s.UsersFile != "" {
				return d.Err("users_file is there twice")
			}
			return oneArg(d, &s.UsersFile)
		},
		"hash": s.unmarshalHash,
	})
	if err == nil && s.HashRaw == nil {
		err = unknown
	}
	return err
}

func (s *StaticDirectory) unmarshalHash(d *caddyfile.Dispenser) (err error) {
	if s.HashRaw != nil {
		return d.Err("hash is there twice")
	}
	s.HashRaw, err = guestOrBare(d, "http.authentication.hashes.", "algorithm")
	return err
}

// guestOrBare is guest for modules of which some read no Caddyfile, since they
// have nothing to be set.
func guestOrBare(d *caddyfile.Dispenser, namespace, key string) (json.RawMessage, error) {
	if d.NextArg() {
		name := d.Val()
		if info, err := caddy.GetModule(namespace + name); err == nil {
			module := info.New()
			if _, reads := module.(caddyfile.Unmarshaler); !reads {
				return caddyconfig.JSONModuleObject(module, key, name, nil), endOfLine(d)
			}
		}
		d.Prev()
	}
	return guest(d, namespace, key)
}
