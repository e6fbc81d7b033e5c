package upstream

import (
	"context"
	"encoding/base64"
	"errors"
	"strings"
	"unicode"
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

// A LoginSource returns the login for a registry. If refused is not nil, the
// registry has refused that login, and the source looks for a newer one; it
// returns the same login again if there is none. A source is asked for each
// request that carries the login, concurrently, so it should remember what it has
// found and limit how often and how long it looks. Its errors must not contain a
// secret.
type LoginSource func(ctx context.Context, refused *Login) (Login, error)

// StaticLogin returns the source of a login that never changes.
func StaticLogin(username string, password Secret) LoginSource {
	return func(context.Context, *Login) (Login, error) { return Login{username, password}, nil }
}

// sentLogin is a login that is part of a request. Its zero value is no login.
type sentLogin struct {
	login   Login
	renewed bool // another login was refused in the same call
}

// header returns the Authorization header of the login (RFC 7617), or "" for no
// login.
func (s sentLogin) header() string {
	if s == (sentLogin{}) {
		return ""
	}
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(s.login.Username+":"+string(s.login.Password)))
}

// currentLogin returns the login to send, or none if the registry is used
// anonymously.
func (r *Registry) currentLogin(ctx context.Context, c *call) (sentLogin, error) {
	if r.login == nil {
		return sentLogin{}, nil
	}
	login, err := r.askLogin(ctx, c, nil)
	return sentLogin{login: login}, err
}

// newerLogin returns the login to send instead of a refused one. It reports false
// if the source has no other, or has been asked in this call before.
func (r *Registry) newerLogin(ctx context.Context, c *call, refused sentLogin) (sentLogin, bool, error) {
	if r.login == nil || refused.renewed || refused == (sentLogin{}) {
		return refused, false, nil
	}
	login, err := r.askLogin(ctx, c, &refused.login)
	if err != nil || login == refused.login {
		return refused, false, err
	}
	return sentLogin{login: login, renewed: true}, true, nil
}

// askLogin asks the source of the login. A source that has no valid login makes
// the call fail with [Withheld]: the administrator has to act.
func (r *Registry) askLogin(ctx context.Context, c *call, refused *Login) (Login, error) {
	login, err := r.login(ctx, refused)
	if err == nil {
		err = login.Check()
	}
	switch {
	case err == nil:
		return login, nil
	case ctx.Err() != nil:
		return Login{}, r.transportError(ctx, c, err)
	}
	e := r.newError(c, Withheld, 0, "the configured login cannot be obtained")
	e.cause = errors.New(err.Error()) // only the text: it may wrap the end of a context of the source
	return Login{}, e
}

// rejectedLogin returns the error of a login that the registry has refused with a
// status.
func (r *Registry) rejectedLogin(c *call, status int) *Error {
	return r.newError(c, Credentials, status, "the registry rejected the configured credentials")
}
