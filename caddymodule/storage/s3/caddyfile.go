package s3

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/storage"
)

// UnmarshalCaddyfile parses
//
//	s3 {
//		bucket      <name>
//		endpoint    <url>
//		region      <region>
//		prefix      <prefix>
//		credentials <id> <secret placeholder>
//		path_style  on|off
//		local       [<directory>] {
//			<lines of filesystem>
//		}
//		max_size    <size>
//		unused_for  <duration>
//		redirect    <duration>|off
//	}
func (s *S3) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the module's name
	if err := parse.End(d); err != nil {
		return d.WrapErr(errUsage)
	}
	err := parse.Lines(d, "storage s3", map[string]func(*caddyfile.Dispenser) error{
		"bucket":      func(d *caddyfile.Dispenser) error { return parse.ArgOnce(d, &s.Bucket) },
		"endpoint":    func(d *caddyfile.Dispenser) error { return parse.ArgOnce(d, &s.Endpoint) },
		"region":      func(d *caddyfile.Dispenser) error { return parse.ArgOnce(d, &s.Region) },
		"prefix":      func(d *caddyfile.Dispenser) error { return parse.ArgOnce(d, &s.Prefix) },
		"credentials": s.unmarshalCredentials,
		"path_style": func(d *caddyfile.Dispenser) (err error) {
			s.PathStyle, err = parse.OnOff(d)
			return err
		},
		"local":      s.unmarshalLocal,
		"max_size":   func(d *caddyfile.Dispenser) error { return parse.Size(d, &s.MaxSize) },
		"unused_for": func(d *caddyfile.Dispenser) error { return parse.Duration(d, &s.UnusedFor) },
		"redirect":   s.unmarshalRedirect,
	})
	if err != nil {
		return err
	}
	return parse.At(d, s.check())
}

func (s *S3) unmarshalCredentials(d *caddyfile.Dispenser) error {
	if s.SecretKey != "" {
		return d.Err("credentials is already set")
	}
	args := d.RemainingArgs()
	if len(args) != 2 {
		return d.WrapErr(errCredentials)
	}
	s.AccessKey, s.SecretKey = args[0], args[1]
	return parse.At(d, s.checkCredentials())
}

func (s *S3) unmarshalLocal(d *caddyfile.Dispenser) error {
	if s.Local != nil {
		return d.Err("local is already set")
	}
	s.Local = new(storage.Filesystem)
	return s.Local.UnmarshalCaddyfile(d.NewFromNextSegment())
}

func (s *S3) unmarshalRedirect(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		if d.Val() == "off" {
			s.Redirect = 0
			return parse.End(d)
		}
		d.Prev()
	}
	if err := parse.Duration(d, &s.Redirect); err != nil {
		return err
	}
	return parse.At(d, s.checkRedirect())
}

// Interface guard
var _ caddyfile.Unmarshaler = (*S3)(nil)
