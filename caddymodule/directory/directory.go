package directory

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
)                     // Account is somebody a directory knows, as it is now.
type Account struct { // Name is unique within the directory. Other directories may have the same
	// name for somebody else.
	Name string // Version changes when tokens of the account that were issued so far
	// should end, as when its password changes. It goes into tokens, so it
	// must tell nothing; empty where the directory has no such notion.
	Version string

	// RefreshFor is how long after the login a refresh token is good for at most;
	// 0 is 30 days. It is for directories whose Version does not tell of a
	// changed password.
	RefreshFor time.Duration

	// Facts are what the directory wants to hear again at a Lookup, such as
	// the claims of an id token. They go into tokens, so they hold no secret;
	// at most 1 KiB of text without control characters.
	Facts string

	// Admin may do everything on the site.
	Admin bool

	// Roles are those that the account has in the directory's own groups, by
	// path; they hold in subgroups too. They count where groups of the directory
	// do: see [Group.MembersFrom].
	Roles map[string]Role

	// Mapped are the roles that the directory's own configuration gives the
	// account, as a `map` line does. They count in declared groups, and below
	// them, like those that the groups list.
	Mapped map[string]Role

	// External keeps the account out of internal groups that it has no role in.
	External bool

	// Only, unless it is nil, are the groups, with their subgroups, that the
	// account has any business in beyond what is public.
	Only []string

	// PullOnly keeps the account from all but pulling, whatever its roles.
	PullOnly bool
}

// Login is an attempt to log in.
type Login struct {
	Name, Password string

	// Request brought the login, for directories that look at more of it.
	Request *http.Request

	// Groups are the paths of the groups that the request is about; at most four.
	Groups []string

	// Friendly reports whether an account has logged in from this address before.
	Friendly bool

	// Subnet is the part of the client's address that limits count by.
	Subnet string

	// Token reports whether the password has the form of a token of some service.
	Token bool
}

// ErrUnknownAccount is a directory's way to say that an account, or the kind
// of login, is not one of its own, so that the next directory is asked.
var ErrUnknownAccount = errors.New("unknown account")

// ErrWrongPassword means that the directory knows the account and that the
// login is wrong. No other directory is asked about the login.
var ErrWrongPassword = errors.New("wrong password")

// ErrBlocked means that the account is known and must not get in.
var ErrBlocked = errors.New("the account is blocked")

// ErrThisRequest marks a refusal that another request with the same name and
// password need not meet, such as one for another group. Wrapped together with
// [ErrUnknownAccount] or [ErrWrongPassword], it keeps the refusal from being
// remembered for a minute.
var ErrThisRequest = errors.New("another request may be answered otherwise")

// Directory is a guest module in the namespace http.dependency_proxy.directory
// that knows accounts. Any error other than the three above means that it
// cannot answer, and denies. The text of an error goes to the audit log and to
// no client: it tells why, and no secret. Wrong logins are counted, and too many
// kept away, before a directory is asked. Its methods are called concurrently,
// and may still be called after its Cleanup, by requests of a configuration that
// is gone.
type Directory interface {
	// Authenticate checks a login. Failed logins are answered one second after
	// they came, but for an unknown account it should need as much of whatever
	// is scarce as for a wrong password: under load, time would tell otherwise.
	// It may go on after the request has been answered, until its context ends.
	Authenticate(ctx context.Context, login Login) (Account, error)

	// Lookup returns the account as it is now. It is called for each request
	// that shows a token, so what takes time is to be remembered for a while.
	// The facts are those of the login, or empty where there was none.
	Lookup(ctx context.Context, name, facts string) (Account, error)
}

// Sourced is a Directory that says where its accounts are, such as a
// URL. With another source all accounts are others', whatever their names: access
// tokens that were made for the accounts of before end.
type Sourced interface {
	Directory
	Source() string
}

// Renamed is a Directory whose accounts had other names in tokens of
// earlier versions.
type Renamed interface {
	Directory
	// FormerName returns the name that an account of a token has now.
	FormerName(name, facts string) string
}

// Costly is a Directory that needs time or other resources for a login
// with a name that it does not know, or cannot always tell that it does not.
type Costly interface {
	Directory

	// Feign is called with a login that a directory before this one has refused.
	// It does what Authenticate does for a login like it with a name that nobody
	// has, and returns an error if that could not be refused now. It must not
	// show the login's name or password to anybody.
	Feign(ctx context.Context, login Login) error
}

// Local is a Directory that holds its accounts in memory and checks
// their passwords itself. An unknown name takes no time there, so the login of
// one is compared with the password of an account of a local directory; see
// [Local.FeignAs].
type Local interface {
	Directory

	// Listed returns the names of the accounts that the configuration lists.
	Listed() []string

	// Knows reports whether an account has the name.
	Knows(name string) bool

	// Generation returns a number that changes when the accounts do.
	Generation() uint64

	// Len returns the number of accounts.
	Len() int

	// FeignAs spends on a login what Authenticate spends on a wrong password of
	// the account at index i, and returns an error if the login could not be
	// checked now.
	FeignAs(ctx context.Context, login Login, i int) error
}

// Tokens is a Directory whose accounts log in with tokens, which
// machines make and nobody guesses.
type Tokens interface {
	Directory

	// IsToken reports whether a login has the form of one with such a token.
	IsToken(name, password string) bool
}

// GroupDirectory is a Directory that knows groups which the configuration need
// not declare. Both methods are called for each request and must remember.
type GroupDirectory interface {
	Directory

	// RoleIn returns the role of one of the directory's accounts in a group,
	// inherited ones included, NoRole if it has none.
	RoleIn(ctx context.Context, account Account, group string) (Role, error)

	// VisibilityOf returns who may pull from a group; an error that is
	// fs.ErrNotExist if the directory has no such group.
	VisibilityOf(ctx context.Context, group string) (Visibility, error)
}

// Asker is the client on whose behalf a directory is asked about a group: an
// account, or an address if the client is anonymous.
type Asker struct{ Directory, Name, Subnet string }

type askerKey struct{}

// WithAsker returns a context that carries the asker.
func WithAsker(ctx context.Context, a Asker) context.Context {
	return context.WithValue(ctx, askerKey{}, a)
}

// AskerOf returns the asker that a context carries. There is none for questions
// of the admin API, and for those that follow from a login.
func AskerOf(ctx context.Context) (Asker, bool) {
	a, ok := ctx.Value(askerKey{}).(Asker)
	return a, ok
}

// Closed is a GroupDirectory that can rule out that a group of it is
// public, without being asked about one.
type Closed interface {
	GroupDirectory
	MayBePublic() bool
}

// GroupsMayBePublic reports whether a directory has groups that may be public.
func GroupsMayBePublic(d Directory) bool {
	if closed, ok := d.(Closed); ok {
		return closed.MayBePublic()
	}
	_, knowsGroups := d.(GroupDirectory)
	return knowsGroups
}

// Mapping is a Directory whose own configuration says who is in groups.
type Mapping interface {
	Directory
	// MappedGroups returns the paths of those groups.
	MappedGroups() []string
}

// Naming is a Directory that tells of an account which groups it is in,
// and cannot be asked which groups there are.
type Naming interface {
	Directory
	NamesGroups() bool
}

// NamesGroups reports whether a directory is a [Naming] that does so.
func NamesGroups(d Directory) bool {
	naming, ok := d.(Naming)
	return ok && naming.NamesGroups()
}

// Tokens of GitLab, GitHub and Docker Hub consist of these characters and are at
// least 20 long; a longer one than 4,096 may not fit into a header.
var tokenCharacters = regexp.MustCompile(`^[A-Za-z0-9_.=-]+$`)

// HasTokenForm reports whether a password has the length and the characters of a
// token. Other passwords are people's, and are not sent to a token service.
func HasTokenForm(password string) bool {
	return len(password) >= 20 && len(password) <= 4096 && tokenCharacters.MatchString(password)
}

const (
	// MaxFacts and MaxName are what tokens of ours hold, in bytes.
	MaxFacts = 1 << 10
	MaxName  = 255
)

// IsRefusal tells a login or a token that is no good from one that cannot be
// judged.
func IsRefusal(err error) bool {
	return errors.Is(err, tokenissuer.ErrInvalidToken) || errors.Is(err, ErrUnknownAccount) ||
		errors.Is(err, ErrWrongPassword) || errors.Is(err, ErrBlocked)
}

// FormerPrefix is what earlier versions put before the names of an issuer's
// accounts.
func FormerPrefix(issuer string) string { return strings.TrimPrefix(issuer, "https://") + "#" }

// Unknown returns the login with a random name and password, which no account has.
func (l Login) Unknown() Login {
	l.Name, l.Password = "nobody-"+rand.Text(), rand.Text()
	return l
}
