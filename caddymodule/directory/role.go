package directory

import (
	"fmt"
	"strings"

	"github.com/dependencyproxy/caddy-dependency-proxy/reference"
)

// Visibility says who may pull from a group.
type Visibility string

const (
	// Private permits the members of the group and of the groups above it to pull.
	Private Visibility = "private"
	// Internal permits every account to pull.
	Internal Visibility = "internal"
	// Public permits everybody to pull, with an anonymous token.
	Public Visibility = "public"
)

// Role is the role of an account in a group and its subgroups. Each role includes
// the ones before it.
type Role uint8

const (
	// NoRole is the role of an account that is not a member.
	NoRole Role = iota
	// Member may pull.
	Member
	// Maintainer may see what the group has cached, and purge it.
	Maintainer
	// Owner may create and revoke the group's access tokens.
	Owner
)

var roleNames = [...]string{"no role", "member", "maintainer", "owner"}

// String returns the name of the role in lower case.
func (r Role) String() string { return roleNames[min(int(r), len(roleNames)-1)] }

// ParseRole returns the role with a name: member, maintainer or owner.
func ParseRole(name string) (Role, bool) {
	for role := Member; role <= Owner; role++ {
		if role.String() == name {
			return role, true
		}
	}
	return NoRole, false
}

// Infix separates the path of a group from the name of an image in the name of a
// repository. The path of a group must not contain it.
const Infix = "/dependency_proxy/containers/"

// CheckGroupPath checks the path of a group of this site.
func CheckGroupPath(path string) error {
	switch {
	case !reference.ValidRepository(path):
		return fmt.Errorf("invalid group '%s'; use lower-case letters and digits, separated by . _ __ - or /", path)
	case strings.Contains("/"+path+"/", Infix):
		return fmt.Errorf("group %s: a group's path must not contain %s", path, strings.Trim(Infix, "/"))
	}
	return nil
}

// ReadMapping reads the end of a `map` line: an arrow, the path of a group and
// perhaps a role. It reports whether the words have that form.
func ReadMapping(words []string, group, role *string) bool {
	if len(words) < 2 || len(words) > 3 || words[0] != "->" {
		return false
	}
	*group = words[1]
	if len(words) == 3 {
		*role = words[2]
	}
	return true
}

// CheckMapping checks the group and the role of a `map` line. An empty role is
// that of a member.
func CheckMapping(group, role string) error {
	if err := CheckGroupPath(group); err != nil {
		return err
	}
	if mappedRole(role) == NoRole {
		return fmt.Errorf("unknown role '%s'; use member, maintainer or owner", role)
	}
	return nil
}

func mappedRole(role string) Role {
	if role == "" {
		return Member
	}
	parsed, _ := ParseRole(role)
	return parsed
}
