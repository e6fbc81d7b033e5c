// Package directory defines what a directory of accounts is. Directories are guest
// modules of the handler, in the namespace http.dependency_proxy.directory, one
// package each: static, gitlab, oidc, ldap and authentication.
//
// A [Directory] checks logins and looks up accounts. The handler asks the
// directories of a site in the order of the configuration until one knows the
// account. A directory implements further interfaces if there is more to ask it:
// [GroupDirectory] if it knows groups of its own, [Mapping] or [Naming] if it only
// says who is in groups, [Local] or [Costly] so that a failed login does not reveal
// by its time which accounts exist, [TokenDirectory], [Sourced], [Renamed] and [Remote].
//
// The rest is what directories have in common: accounts and their limits, roles,
// names, and the lines of their Caddyfile blocks.
package directory

import (
	"context"
	"strings"
)

// Directory is a guest module that knows accounts. Wrong logins are counted, and
// limited, before a directory is asked. Its methods are called concurrently, and
// may still be called after Cleanup by requests of an old configuration.
//
// A login or an account is refused with [ErrUnknownAccount], [ErrWrongPassword] or
// [ErrBlocked]. Any other error means that the directory cannot answer, and denies
// access. The text of an error goes to the audit log but not to the client; it
// must hold no secret. An error with a method RetryAfter() time.Duration sets the
// Retry-After header of the response.
type Directory interface {
	// Authenticate checks a login. An unknown account should need as much of each
	// scarce resource as a wrong password: although failed logins are answered one
	// second after they arrived, under load the time would reveal the difference.
	// Authenticate may go on after the request was answered, until ctx ends.
	Authenticate(ctx context.Context, login Login) (Account, error)

	// Lookup returns the account as it is now. It is called for each request with a
	// token, so slow answers must be remembered for a while. The facts are those of
	// the login, or empty if there was none.
	Lookup(ctx context.Context, name, facts string) (Account, error)
}

// Sourced is a Directory that says where its accounts come from.
type Sourced interface {
	Directory

	// Source returns a text, such as a URL, that changes when the names begin to
	// mean other accounts. Access tokens of the accounts before end then.
	Source() string
}

// Remote is a Directory that asks a service.
type Remote interface {
	Directory

	// Reach asks whether the service could answer questions about accounts, and
	// returns an error if it could not. It is called at most every few seconds,
	// must end with ctx, and must not depend on how many questions of clients
	// are waiting: a flood of logins must not make the directory look down.
	Reach(ctx context.Context) error
}

// Renamed is a Directory whose accounts have other names in tokens of earlier
// versions.
type Renamed interface {
	Directory

	// FormerName returns the present name of an account, given that in a token.
	FormerName(name, facts string) string
}

// Costly is a Directory that needs time or other resources to refuse a login with
// an unknown name.
type Costly interface {
	Directory

	// Feign is called with a login that an earlier directory has refused. It spends
	// what Authenticate spends on such a login with an unknown name, and returns an
	// error if that login could not be refused now. It must not show the name or
	// the password to another service.
	Feign(ctx context.Context, login Login) error
}

// Local is a Directory that holds its accounts in memory and compares their
// passwords itself. It refuses an unknown name without delay; the password is then
// compared with that of one account of all local directories.
type Local interface {
	Directory

	// Listed returns the names of the accounts in the configuration.
	Listed() []string

	// Generation returns a number that changes when the accounts change.
	Generation() uint64

	// Len returns the number of accounts.
	Len() int

	// FeignAs spends on a login what Authenticate spends on a wrong password of the
	// account at index i. It returns an error if the login could not be checked now.
	FeignAs(ctx context.Context, login Login, i int) error
}

// TokenDirectory is a Directory whose accounts log in with tokens, which cannot be
// guessed.
type TokenDirectory interface {
	Directory

	// IsToken reports whether a login has the form of one with such a token.
	IsToken(name, password string) bool
}

// GroupDirectory is a Directory with groups of its own, which the configuration
// need not declare. RoleIn and VisibilityOf are called for each request, so their
// answers must be remembered.
type GroupDirectory interface {
	Directory

	// RoleIn returns the role of an account of the directory in a group, including
	// inherited ones. It is NoRole for an account that is not a member.
	RoleIn(ctx context.Context, account Account, group string) (Role, error)

	// VisibilityOf returns who may pull from a group. The error is fs.ErrNotExist
	// if the directory has no such group.
	VisibilityOf(ctx context.Context, group string) (Visibility, error)

	// MayBePublic reports whether a group of the directory can be public.
	MayBePublic() bool
}

// GroupsMayBePublic reports whether a directory has groups that may be public.
func GroupsMayBePublic(d Directory) bool {
	groups, ok := d.(GroupDirectory)
	return ok && groups.MayBePublic()
}

// Mapping is a Directory whose own configuration says who is in groups.
type Mapping interface {
	Directory

	// MappedGroups returns the paths of those groups.
	MappedGroups() []string
}

// Naming is a Directory that may say in which groups an account is, without being
// able to say which groups exist.
type Naming interface {
	Directory

	// NamesGroups reports whether it does so.
	NamesGroups() bool
}

// NamesGroups reports whether a directory is a [Naming] that names groups.
func NamesGroups(d Directory) bool {
	naming, ok := d.(Naming)
	return ok && naming.NamesGroups()
}

// Asker is the client for whom a directory is asked about a group: an account, or
// an address if the client is anonymous.
type Asker struct{ Directory, Name, Subnet string }

type askerKey struct{}

// WithAsker returns a context that carries the asker.
func WithAsker(ctx context.Context, a Asker) context.Context {
	return context.WithValue(ctx, askerKey{}, a)
}

// AskerOf returns the asker that a context carries. Questions of the admin API, and
// those that follow from a login, have none.
func AskerOf(ctx context.Context) (Asker, bool) {
	a, ok := ctx.Value(askerKey{}).(Asker)
	return a, ok
}

// FormerPrefix returns the prefix that earlier versions put before the names of an
// issuer's accounts.
func FormerPrefix(issuer string) string { return strings.TrimPrefix(issuer, "https://") + "#" }
