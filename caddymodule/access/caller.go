package access

import (
	"slices"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
)

// Caller is the client of a request: an account as its directory knows it now,
// or an anonymous client.
type Caller struct {
	directory.Account

	// Anonymous is true for a client that has not logged in. All other fields
	// are then zero.
	Anonymous bool

	// Directory is the name of the directory that has the account, or
	// [TokensDirectory] for the access token of a group. Next to an error it
	// names the directory that returned it, if one did.
	Directory string

	// Token is the ID of the access token that the client has used, or empty.
	// Expires is when that token expires.
	Token   string
	Expires time.Time

	// Refresh is the refresh token that the client has used, if any. The
	// handler sets it.
	Refresh RefreshToken

	source directory.Directory // has the account; nil for the access token of a group
}

// RefreshToken is a refresh token that has been verified.
type RefreshToken struct {
	Raw  string    // as the client sent it
	Ends time.Time // the client must log in again after this time
}

// ID returns the directory and the name of the account.
func (c Caller) ID() ID { return ID{c.Directory, c.Name} }

// Identity returns the claims by which [Accounts.Current] finds the caller from a
// token.
func (c Caller) Identity() tokenissuer.Identity {
	if c.Anonymous {
		return tokenissuer.Identity{Anonymous: true}
	}
	if c.Token != "" {
		// It ends with the access token, and survives a new password of the owner.
		return tokenissuer.Identity{Name: c.Name, Directory: TokensDirectory, Facts: c.Token}
	}
	return tokenissuer.Identity{Name: c.Name, Version: c.Version, Directory: c.Directory, Facts: c.Facts}
}

// Asker returns the client that questions to directories are counted for: the
// account, or the subnet of the given address if the caller is anonymous.
func (c Caller) Asker(address string) directory.Asker {
	if c.Anonymous {
		return directory.Asker{Subnet: subnetOf(address)}
	}
	return directory.Asker{Directory: c.Directory, Name: c.Name}
}

// Administers reports whether the caller may see and do everything on the site: it is
// an admin and is not limited to pulling or to some groups.
func (c Caller) Administers() bool { return c.Admin && !c.PullOnly && c.Only == nil }

// reaches reports whether the groups that the caller is limited to include a
// group. A caller must not learn its own role outside of them: a limited token
// must not reveal where else its owner is a member.
func (c Caller) reaches(group string) bool {
	return c.Only == nil || slices.ContainsFunc(c.Only, func(above string) bool { return within(group, above) })
}
