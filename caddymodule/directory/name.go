package directory

import (
	"fmt"
	"regexp"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/parse"
)

// AccessTokens is the name that sets access tokens of the site apart from the
// accounts of directories. No directory can have it.
const AccessTokens = "tokens"

var directoryNames = regexp.MustCompile(`^[a-z0-9-]+$`)

// CheckName checks the name of a directory.
func CheckName(name string) error {
	switch {
	case name == "token" || name == AccessTokens:
		return fmt.Errorf("the directory name '%s' is reserved for access tokens; write another name", name)
	case !directoryNames.MatchString(name):
		return fmt.Errorf("invalid directory name '%s'; use lower-case letters, digits and hyphens, as in `name corp-ldap`", name)
	}
	return nil
}

// ReadName reads the `name` line of a directory.
func ReadName(d *caddyfile.Dispenser, to *string) error {
	if err := parse.ArgOnce(d, to); err != nil {
		return err
	}
	return parse.At(d, CheckName(*to))
}
