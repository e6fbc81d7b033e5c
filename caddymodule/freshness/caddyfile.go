package freshness

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
)

// Lines returns the functions that parse the lines of the policy of an upstream, by
// the first word:
//
//	fresh_for <duration> [<pattern>...]
//	patience  <duration>
//	stale_for <duration>|off
//	absent_for <duration>|off
//	offline   on|off
//
// A line fresh_for can be repeated. The first one that matches a tag counts, and one
// without patterns, which matches every tag, comes last.
func (p *Policy) Lines(upstream string) map[string]func(*caddyfile.Dispenser) error {
	return map[string]func(*caddyfile.Dispenser) error{
		"fresh_for":  func(d *caddyfile.Dispenser) error { return p.unmarshalFreshFor(d, upstream) },
		"patience":   func(d *caddyfile.Dispenser) error { return parse.Duration(d, &p.Patience) },
		"stale_for":  func(d *caddyfile.Dispenser) error { return unmarshalDuration(d, &p.StaleFor) },
		"absent_for": func(d *caddyfile.Dispenser) error { return unmarshalDuration(d, &p.AbsentFor) },
		"offline": func(d *caddyfile.Dispenser) (err error) {
			p.Offline, err = parse.OnOff(d)
			return err
		},
	}
}

func (p *Policy) unmarshalFreshFor(d *caddyfile.Dispenser, upstream string) error {
	var args []string
	if err := parse.Args(d, &args); err != nil {
		return err
	}
	var duration caddy.Duration
	if err := parse.DurationOf(d, "fresh_for", args[0], &duration); err != nil {
		return err
	}
	if p.FreshFor != 0 {
		return d.Err("this fresh_for would never be used: one without patterns, which matches every tag, is before it; write that last, and only once")
	}
	if len(args) == 1 {
		p.FreshFor = duration
		return nil
	}
	p.FreshRules = append(p.FreshRules, Rule{duration, args[1:]})
	return parse.At(d, p.Check(upstream))
}

// unmarshalDuration parses a duration, or off as 0.
func unmarshalDuration(d *caddyfile.Dispenser, to **caddy.Duration) error {
	word, value := d.Val(), ""
	if err := parse.Arg(d, &value); err != nil {
		return err
	}
	*to = new(caddy.Duration)
	if value == "off" {
		return nil
	}
	if err := parse.DurationOf(d, word, value, *to); err != nil {
		return d.Errf("%s: invalid value '%s'; write a duration, as in 10s, 12h or 30d, or off", word, value)
	}
	return nil
}
