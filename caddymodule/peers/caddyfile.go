package peers

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
)

// UnmarshalOnce sets *c by [Config.UnmarshalCaddyfile]. It is an error if it is set.
func UnmarshalOnce(d *caddyfile.Dispenser, c **Config) error {
	if *c != nil {
		return d.Err("peers is already set")
	}
	*c = new(Config)
	return (*c).UnmarshalCaddyfile(d)
}

// UnmarshalCaddyfile parses
//
//	peers {
//		to        <host:port>...
//		dynamic   <module> ...
//		self      <host:port>
//		transport <module> ...
//	}
func (c *Config) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	if err := parse.End(d); err != nil {
		return err
	}
	err := parse.Lines(d, "peers", map[string]func(*caddyfile.Dispenser) error{
		"to": func(d *caddyfile.Dispenser) error {
			if err := parse.Args(d, &c.To); err != nil {
				return err
			}
			return parse.At(d, c.checkNames())
		},
		"dynamic": func(d *caddyfile.Dispenser) error {
			return parse.ModuleOnce(d, "http.reverse_proxy.upstreams.", "source", &c.DynamicRaw)
		},
		"self": func(d *caddyfile.Dispenser) error {
			if err := parse.ArgOnce(d, &c.Self); err != nil {
				return err
			}
			return parse.At(d, c.checkNames())
		},
		"transport": func(d *caddyfile.Dispenser) error {
			if err := parse.ModuleOnce(d, "http.reverse_proxy.transport.", "protocol", &c.TransportRaw); err != nil {
				return err
			}
			return parse.At(d, checkTransport(c.TransportRaw))
		},
	})
	if err != nil {
		return err
	}
	return parse.At(d, c.Check())
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Config)(nil)
