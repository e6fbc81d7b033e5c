package credential

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
)

// Lines returns the functions that parse the lines of a login, by the first word:
//
//	credentials       <user name> <password placeholder>
//	credential_helper <name> {
//		env <variable>...
//	}
//	credential_exec   <command> <argument>... {
//		env <variable>...
//	}
//	docker_config     <path>
func (s *Source) Lines() map[string]func(*caddyfile.Dispenser) error {
	lines := map[string]func(*caddyfile.Dispenser) error{
		"credentials": func(d *caddyfile.Dispenser) error {
			c := new(Credentials)
			if !d.AllArgs(&c.Username, &c.Password) {
				return d.Err("write `credentials USERNAME {env.PASSWORD}`")
			}
			s.Credentials = c
			return nil
		},
		"credential_helper": func(d *caddyfile.Dispenser) error {
			s.CredentialHelper = new(Helper)
			if err := parse.Arg(d, &s.CredentialHelper.Name); err != nil {
				return err
			}
			return unmarshalEnv(d, "credential_helper", &s.CredentialHelper.Env)
		},
		"credential_exec": func(d *caddyfile.Dispenser) error {
			s.CredentialExec = new(Exec)
			if err := parse.Args(d, &s.CredentialExec.Command); err != nil {
				return err
			}
			return unmarshalEnv(d, "credential_exec", &s.CredentialExec.Env)
		},
		"docker_config": func(d *caddyfile.Dispenser) error { return parse.Arg(d, &s.DockerConfig) },
	}
	for word, read := range lines {
		lines[word] = func(d *caddyfile.Dispenser) error {
			if s.IsConfigured() {
				return d.WrapErr(errSeveral)
			}
			line := *d // errors have the line, and not the end of its block
			if err := read(d); err != nil {
				return err
			}
			return parse.At(&line, s.Check())
		}
	}
	return lines
}

// unmarshalEnv parses the block of a program.
func unmarshalEnv(d *caddyfile.Dispenser, block string, to *[]string) error {
	return parse.Lines(d, block, map[string]func(*caddyfile.Dispenser) error{
		"env": func(d *caddyfile.Dispenser) error { return parse.Args(d, to) },
	})
}
