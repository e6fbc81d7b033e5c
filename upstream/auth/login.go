package auth

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"
	"unicode"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/secret"
)

// Login is an account at the registry.
type Login struct {
	// Username must not be empty or contain a colon or control characters (RFC
	// 7617, section 2).
	Username string

	// Password is a password or a token. It must not be empty or contain control
	// characters.
	Password Secret
}

// Secret is the type of Login.Password. It is printed as stars.
type Secret = secret.String

// IdentityUser is the user name with which Docker stores an identity token, a refresh
// token of the token service, in place of a password.
const IdentityUser = "<token>"

// IsIdentityToken reports whether the password of the login is an identity token.
func (l Login) IsIdentityToken() bool { return l.Username == IdentityUser }

// Header returns the Authorization header of the login (RFC 7617), or "" for the zero
// value, which is no login.
func (l Login) Header() string {
	if l == (Login{}) {
		return ""
	}
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(l.Username+":"+string(l.Password)))
}

// Check returns an error if the login cannot be sent. The error does not repeat
// the login.
func (l Login) Check() error {
	switch {
	case l.Username == "" || l.Password == "":
		return errors.New("incomplete credentials; set both a user name and a password")
	case strings.Contains(l.Username, ":"):
		return errors.New("the user name must not contain a colon")
	case strings.ContainsFunc(l.Username+string(l.Password), unicode.IsControl):
		return errors.New("the user name and the password must not contain control characters, such as a line break at the end of a file")
	}
	return nil
}

// A Source returns the login for a registry. If refused is not nil, the
// registry has refused that login, and the source looks for a newer one; it
// returns the same login again if there is none. A source is asked for each
// request that carries the login, concurrently, so it should remember what it has
// found and limit how often and how long it looks. Its errors must not contain a
// secret.
type Source func(ctx context.Context, refused *Login) (Login, error)

// StaticLogin returns the source of a login that never changes.
func StaticLogin(username string, password Secret) Source {
	return func(context.Context, *Login) (Login, error) { return Login{username, password}, nil }
}
