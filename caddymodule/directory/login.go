package directory

import (
	"crypto/rand"
	"errors"
	"net/http"
	"regexp"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
)

// Login is an attempt to log in.
type Login struct {
	Name, Password string

	// Request is the request that carries the login, for directories that look at
	// more of it.
	Request *http.Request

	// Groups are the paths of the groups that the request is about; at most four.
	Groups []string

	// Friendly reports whether an account has logged in from this address before.
	Friendly bool

	// Subnet is the part of the client's address that limits are counted by.
	Subnet string

	// Token reports whether the password has the form of a token of some service.
	Token bool
}

// Unknown returns the login with a random name and password, which match no
// account.
func (l Login) Unknown() Login {
	l.Name, l.Password = "nobody-"+rand.Text(), rand.Text()
	return l
}

var (
	// ErrUnknownAccount means that the account, or this kind of login, does not
	// belong to the directory. The next directory is asked.
	ErrUnknownAccount = errors.New("unknown account")

	// ErrWrongPassword means that the account belongs to the directory and that the
	// login is wrong. No other directory is asked.
	ErrWrongPassword = errors.New("wrong password")

	// ErrBlocked means that the account is known and must not log in.
	ErrBlocked = errors.New("the account is blocked")

	// ErrThisRequest marks a refusal that depends on the request: another request
	// with the same name and password, such as one for another group, may be
	// accepted. Wrapped together with [ErrUnknownAccount] or [ErrWrongPassword], it
	// keeps the refusal from being remembered.
	ErrThisRequest = errors.New("another request may be answered otherwise")
)

// IsRefusal reports whether err rejects a login or a token, as opposed to a failure
// to check it.
func IsRefusal(err error) bool {
	return errors.Is(err, tokenissuer.ErrInvalidToken) || errors.Is(err, ErrUnknownAccount) ||
		errors.Is(err, ErrWrongPassword) || errors.Is(err, ErrBlocked)
}

// Tokens of GitLab, GitHub and Docker Hub consist of these characters and have at
// least 20 of them. More than 4,096 may not fit into a header.
var tokenCharacters = regexp.MustCompile(`^[A-Za-z0-9_.=-]+$`)

// HasTokenForm reports whether a password has the length and the characters of a
// token. Any other password was chosen by a person and must not be sent to a token
// service.
func HasTokenForm(password string) bool {
	return len(password) >= 20 && len(password) <= 4096 && tokenCharacters.MatchString(password)
}
