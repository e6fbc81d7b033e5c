package directory

import (
	"fmt"
	"regexp"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
)

// AccessTokens is the name by which access tokens of the site are told from the
// accounts of directories. No directory can have it.
const AccessTokens = "tokens"

var directoryNames = regexp.MustCompile(`^[a-z0-9-]+$`)

// CheckName checks what a `name` line of a directory says.
func CheckName(name string) error {
	switch {
	case name == "token" || name == AccessTokens:
		return fmt.Errorf("a directory cannot be called %s, which is what access tokens are called; write another name", name)
	case !directoryNames.MatchString(name):
		return fmt.Errorf("invalid directory name '%s'; use lower-case letters, digits and hyphens, as in `name corp-ldap`", name)
	}
	return nil
}

// ReadName reads the `name` line of a directory.
func ReadName(d *caddyfile.Dispenser, to *string) error {
	if *to != "" {
		return d.Err("name is there twice")
	}
	if err := parse.Arg(d, to); err != nil {
		return err
	}
	return parse.At(d, CheckName(*to))
}
