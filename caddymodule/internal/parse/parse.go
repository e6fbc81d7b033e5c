// Package parse reads the lines of Caddyfile blocks and checks values that several
// modules have in common.
//
// [Lines] reads a block with a function for each word; the other readers read the
// arguments of one line. They are called with the dispenser at the first word of
// the line, and their errors name the file and the line, and end with what to write.
// The Check functions and the like know no Caddyfile: they serve Provision too, since
// a configuration may be JSON.
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

// ErrPrefix is the error for the `prefix` line of earlier versions.
var ErrPrefix = errors.New("prefix has been removed, since an account is a directory and a name; leave the line out, name the directory by a line as in `name ci`, and list its accounts without the prefix, as in `members ci:NAME` or `blocked ci:NAME`")

// removed are the errors for lines of earlier versions, by block and word.
var removed = map[string]error{"directory oidc prefix": ErrPrefix, "directory authentication prefix": ErrPrefix}

// Lines reads a block. The function for the first word of a line reads the line.
func Lines(d *caddyfile.Dispenser, block string, lines map[string]func(*caddyfile.Dispenser) error) error {
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := removed[block+" "+d.Val()]; err != nil {
			return d.WrapErr(err)
		}
		read := lines[d.Val()]
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

// At adds the position of the dispenser to an error.
func At(d *caddyfile.Dispenser, err error) error {
	if err == nil {
		return nil
	}
	return d.WrapErr(err)
}

// Module reads the name of a module and the segment of the module. The result is
// the JSON of the module, with its name under the key.
func Module(d *caddyfile.Dispenser, namespace, key string) (json.RawMessage, error) {
	word := d.Val()
	if !d.NextArg() {
		return nil, d.Errf("missing module; write `%s MODULE`, with a module of %s", word, strings.TrimSuffix(namespace, "."))
	}
	name := d.Val()
	module, err := caddyfile.UnmarshalModule(d, namespace+name)
	if err != nil {
		return nil, err
	}
	return caddyconfig.JSONModuleObject(module, key, name, nil), nil
}

// ModuleOnce is Module for a line that must not be repeated.
func ModuleOnce(d *caddyfile.Dispenser, namespace, key string, to *json.RawMessage) (err error) {
	if *to != nil {
		return alreadySet(d)
	}
	*to, err = Module(d, namespace, key)
	return err
}

// End checks that the line has no further argument.
func End(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.Errf("unexpected '%s' at the end of the line", d.Val())
	}
	return nil
}

// Arg reads the one argument of a line.
func Arg(d *caddyfile.Dispenser, to *string) error {
	word := d.Val()
	if !d.NextArg() {
		return d.Errf("%s needs a value", word)
	}
	*to = d.Val()
	return End(d)
}

// ArgOnce is Arg for a line that must not be repeated.
func ArgOnce(d *caddyfile.Dispenser, to *string) error {
	if *to != "" {
		return alreadySet(d)
	}
	return Arg(d, to)
}

func alreadySet(d *caddyfile.Dispenser) error { return d.Errf("%s is already set", d.Val()) }

// Args reads the arguments of a line, of which there must be one, and appends them.
func Args(d *caddyfile.Dispenser, to *[]string) error {
	word := d.Val()
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.Errf("%s needs at least one value", word)
	}
	*to = append(*to, args...)
	return nil
}

// Duration reads a positive duration.
func Duration(d *caddyfile.Dispenser, to *caddy.Duration) error {
	word, value := d.Val(), ""
	if err := Arg(d, &value); err != nil {
		return err
	}
	return DurationOf(d, word, value, to)
}

// DurationOf parses a value of a line as a positive duration.
func DurationOf(d *caddyfile.Dispenser, word, value string, to *caddy.Duration) error {
	parsed, err := caddy.ParseDuration(value)
	if err != nil || parsed <= 0 {
		return d.Errf("%s: invalid duration '%s'; write one as in 90s, 5m, 12h or 30d", word, value)
	}
	*to = caddy.Duration(parsed)
	return nil
}

// Size reads a positive number of bytes.
func Size(d *caddyfile.Dispenser, to *int64) error {
	word, value := d.Val(), ""
	if err := Arg(d, &value); err != nil {
		return err
	}
	parsed, err := humanize.ParseBytes(value)
	if err != nil || parsed == 0 || parsed > math.MaxInt64 {
		return d.Errf("%s: invalid size '%s'; write one as in 500MiB, 20GiB or 2TiB", word, value)
	}
	*to = int64(parsed)
	return nil
}

// SizeOrOff is Size, and reads off as -1.
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

// Int reads a number from 1 to most.
func Int(d *caddyfile.Dispenser, most int, to *int) error {
	word, value := d.Val(), ""
	if err := Arg(d, &value); err != nil {
		return err
	}
	parsed, err := strconv.Atoi(value)
	if err != nil || parsed < 1 || parsed > most {
		return d.Errf("%s: invalid number '%s'; write one from 1 to %d", word, value, most)
	}
	*to = parsed
	return nil
}

// OnOff reads on or off.
func OnOff(d *caddyfile.Dispenser) (bool, error) {
	word, value := d.Val(), ""
	if err := Arg(d, &value); err != nil {
		return false, err
	}
	if value != "on" && value != "off" {
		return false, d.Errf("%s: invalid value '%s'; write on or off", word, value)
	}
	return value == "on", nil
}
