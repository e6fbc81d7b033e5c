package authentication

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
)

// UnmarshalCaddyfile sets up the directory from Caddyfile tokens. The block is that of
// the provider, or that of the directory:
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
	d.Next() // the module's name
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

func (a *Directory) unmarshalProvider(d *caddyfile.Dispenser) error {
	if a.ProviderRaw == nil && d.NextArg() {
		if d.Val() == "http_basic" {
			return d.Err("http_basic has no Caddyfile form here; write `directory static` with `user NAME HASH` lines")
		}
		d.Prev()
	}
	return parse.ModuleOnce(d, "http.authentication.providers.", "type", &a.ProviderRaw)
}

var _ caddyfile.Unmarshaler = (*Directory)(nil)
