package parse

import (
	"encoding/json"
	"errors"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"
)

// removed are lines of earlier versions, by their block, with what is said of
// them.
var removed = map[string]error{"directory oidc prefix": ErrPrefix, "directory authentication prefix": ErrPrefix}

// Lines reads a block whose lines begin with one of the given words. The
// reader of a line is called with the dispenser at that word.
func Lines(d *caddyfile.Dispenser, block string, lines map[string]func(*caddyfile.Dispenser) error) error {
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		read := lines[d.Val()]
		if err := removed[block+" "+d.Val()]; err != nil {
			return d.WrapErr(err)
		}
		if read == nil {
			known := slices.Sorted(maps.Keys(lines))
			return d.Errf("unrecognized subdirective '%s' of %s; write one of %s", d.Val(), block, strings.Join(known, ", "))
		}
		if err := read(d); err != nil {
			return err
		}
	}
	return nil
}

// At gives an error the place in the file where the dispenser is.
func At(d *caddyfile.Dispenser, err error) error {
	if err == nil {
		return nil
	}
	return d.WrapErr(err)
}

// Module reads a module's name and what the module makes of the rest.
func Module(d *caddyfile.Dispenser, namespace, key string) (json.RawMessage, error) {
	word := d.Val()
	if !d.NextArg() {
		return nil, d.Errf("write which %s: the name of a module in %s", word, strings.TrimSuffix(namespace, "."))
	}
	name := d.Val()
	module, err := caddyfile.UnmarshalModule(d, namespace+name)
	if err != nil {
		return nil, err
	}
	return caddyconfig.JSONModuleObject(module, key, name, nil), nil
}

func End(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.Errf("unexpected '%s' at the end of the line", d.Val())
	}
	return nil
}

func Arg(d *caddyfile.Dispenser, to *string) error {
	word := d.Val()
	if !d.NextArg() {
		return d.Errf("%s needs a value", word)
	}
	*to = d.Val()
	return End(d)
}

func Args(d *caddyfile.Dispenser, to *[]string) error {
	word := d.Val()
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.Errf("%s needs at least one value", word)
	}
	*to = append(*to, args...)
	return nil
}

func Duration(d *caddyfile.Dispenser, to *caddy.Duration) error {
	word, value := d.Val(), ""
	if err := Arg(d, &value); err != nil {
		return err
	}
	parsed, err := caddy.ParseDuration(value)
	if err != nil || parsed <= 0 {
		return d.Errf("%s: '%s' is not a duration; write one as in 90s, 5m, 12h or 30d", word, value)
	}
	*to = caddy.Duration(parsed)
	return nil
}

func Size(d *caddyfile.Dispenser, to *int64) error {
	word, value := d.Val(), ""
	if err := Arg(d, &value); err != nil {
		return err
	}
	parsed, err := humanize.ParseBytes(value)
	if err != nil || parsed == 0 || parsed > math.MaxInt64 {
		return d.Errf("%s: '%s' is not a size; write one as in 500MiB, 20GiB or 2TiB", word, value)
	}
	*to = int64(parsed)
	return nil
}

// SizeOrOff reads off as -1.
func SizeOrOff(d *caddyfile.Dispenser, to *int64) error {
	if d.NextArg() {
		if d.Val() == "off" {
			*to = -1
			return End(d)
		}
		d.Prev()
	}
	return Size(d, to)
}

func Int(d *caddyfile.Dispenser, most int, to *int) error {
	word, value := d.Val(), ""
	if err := Arg(d, &value); err != nil {
		return err
	}
	parsed, err := strconv.Atoi(value)
	if err != nil || parsed < 1 || parsed > most {
		return d.Errf("%s: '%s' is not a number from 1 to %d", word, value, most)
	}
	*to = parsed
	return nil
}

func OnOff(d *caddyfile.Dispenser) (bool, error) {
	word, value := d.Val(), ""
	if err := Arg(d, &value); err != nil {
		return false, err
	}
	if value != "on" && value != "off" {
		return false, d.Errf("%s: '%s' is neither on nor off", word, value)
	}
	return value == "on", nil
}

// ErrPrefix is about a line of earlier versions.
var ErrPrefix = errors.New("prefix has been removed, since an account is a directory and a name; leave the line out, call the directory by a line as in `name ci`, and list its accounts without the prefix, as in `members ci:NAME` or `blocked ci:NAME`")
