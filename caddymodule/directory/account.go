package directory

import (
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
)

const (
	// MaxName is the limit on the name of an account, in bytes.
	MaxName = 255
	// MaxFacts is the limit on the facts of an account, in bytes.
	MaxFacts = 1 << 10
)

// Account is an account of a directory, as it is now.
type Account struct {
	// Name is unique within the directory; another directory may use the same name
	// for another account. At most MaxName bytes.
	Name string

	// Version changes when the tokens issued so far must end, as when the password
	// of the account changes. It goes into tokens, so it must reveal nothing. It is
	// empty if the directory has no such notion.
	Version string

	// RefreshFor limits how long after the login a refresh token is valid. The
	// default is 30 days. Directories set it if their Version does not change with
	// the password.
	RefreshFor time.Duration

	// Facts are what the directory wants to be given at a Lookup, such as the
	// claims of an id token. They go into tokens, so they must hold no secret; at
	// most MaxFacts bytes of text without control characters.
	Facts string

	// Admin permits everything on the site.
	Admin bool

	// Roles are the roles of the account in the directory's own groups, by path,
	// which include the subgroups. They count where the groups of the directory
	// count: see MembersFrom of a group.
	Roles map[string]Role

	// Mapped are the roles that the configuration of the directory gives the
	// account, as by a `map` line. In declared groups, and below them, they count
	// like the accounts that the groups list.
	Mapped map[string]Role

	// External keeps the account out of internal groups in which it has no role.
	External bool

	// Only, unless it is nil, limits the account to these groups, their subgroups
	// and public groups.
	Only []string

	// PullOnly permits nothing but pulling, whatever the roles are.
	PullOnly bool
}

// Map gives the account a role in a group, as ReadMapping reads it, unless it
// already has a higher one there.
func (a *Account) Map(group, role string) {
	if a.Mapped == nil {
		a.Mapped = make(map[string]Role)
	}
	a.Mapped[group] = max(a.Mapped[group], mappedRole(role))
}

// CheckAccountName reports why a name cannot be that of an account.
func CheckAccountName(name string) error {
	switch {
	case name == "":
		return errors.New("the account has no name")
	case len(name) > MaxName:
		return fmt.Errorf("the name of the account is longer than %d bytes", MaxName)
	case !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl):
		return errors.New("the name of the account is not plain text")
	}
	return nil
}

// CheckFacts reports whether facts are short enough to go into a token.
func CheckFacts(facts string) error {
	if len(facts) > MaxFacts {
		return fmt.Errorf("the facts about the account are longer than %d bytes", MaxFacts)
	}
	return nil
}

// CheckAge checks the time of a login, or of the token that was shown at it: it must not
// be more than a limit in the past, nor in the future. Errors name what is too old, and
// the limit.
func CheckAge(what string, at time.Time, name string, limit time.Duration, now time.Time) error {
	switch age := now.Sub(at); {
	case age > limit:
		return fmt.Errorf("%s is %v old, and %s is %v", what, age.Round(time.Second), name, limit)
	case age < -tokenissuer.Leeway:
		return fmt.Errorf("%s is from the future; check the clocks", what)
	}
	return nil
}
