package directory

import (
	"fmt"
	"strings"

	"github.com/dependencyproxy/caddy-dependency-proxy/reference"
)

// Visibility says who may pull from a group.
type Visibility string

const (
	// Private lets the members of the group and of the groups above it pull.
	Private Visibility = "private"
	// Internal lets any account pull.
	Internal Visibility = "internal"
	// Public lets anybody pull, with an anonymous token.
	Public Visibility = "public"
)

// Role is what an account is in a group and in the groups below it. Each role
// may do what the ones before it may.
type Role uint8

const (
	// NoRole is that of who is no member.
	NoRole Role = iota
	// Member pulls.
	Member
	// Maintainer sees the group's page, and purges what is cached for it.
	Maintainer
	// Owner makes and revokes the group's tokens.
	Owner
)

var roleNames = [...]string{"no role", "member", "maintainer", "owner"}

// String names the role in lower case.
func (r Role) String() string { return roleNames[min(int(r), len(roleNames)-1)] }

// ParseRole returns the role with the given name: member, maintainer or owner.
func ParseRole(name string) (Role, bool) {
	for role := Member; role <= Owner; role++ {
		if role.String() == name {
			return role, true
		}
	}
	return NoRole, false
}

// CheckGroupPath checks the path of a group of this site.
func CheckGroupPath(path string) error {
	switch {
	case !reference.ValidRepository(path):
		return fmt.Errorf("group '%s': a group's path is lower-case letters and digits, separated by . _ __ - or /", path)
	case strings.Contains("/"+path+"/", Infix):
		return fmt.Errorf("group %s: a group's path must not contain %s", path, strings.Trim(Infix, "/"))
	}
	return nil
}

// Infix separates the path of a group from the name of an image in the name of a
// repository, so that the path of a group must not contain it.
const Infix = "/dependency_proxy/containers/"
