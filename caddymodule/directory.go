package caddymodule

import (
	"context"
	"errors"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
)

// Account is somebody a directory knows.
type Account struct {
	// Name is unique among all directories of a site, the first that knows
	// it winning.
	Name string

	// Version changes when tokens of the account that were issued so far
	// should end, as when its password changes. It goes into tokens, so it
	// must tell nothing; empty where the directory has no such notion.
	Version string
}

// ErrUnknownAccount is a directory's way to say that an account is not one of
// its own, so that the next directory is asked.
var ErrUnknownAccount = errors.New("unknown account")

// ErrWrongPassword means that the directory knows the account and that the
// login is wrong. No other directory is asked.
var ErrWrongPassword = errors.New("wrong password")

// Directory is a guest module in the namespace http.dependency_proxy.directory
// that knows accounts. Any error other than the two above means that it cannot
// answer, and denies.
type Directory interface {
	// Authenticate checks a login. It must take as long for an unknown
	// account as for a wrong password.
	Authenticate(ctx context.Context, name, password string) (Account, error)

	// Lookup returns the account as it is now. It is called for each
	// request that shows a token.
	Lookup(ctx context.Context, name string) (Account, error)
}

// directories asks each in the order of the configuration.
type directories []Directory

func (ds directories) authenticate(ctx context.Context, name, password string) (tokenissuer.Identity, error) {
	return ds.first(func(d Directory) (Account, error) { return d.Authenticate(ctx, name, password) })
}

func (ds directories) lookup(ctx context.Context, name string) (tokenissuer.Identity, error) {
	return ds.first(func(d Directory) (Account, error) { return d.Lookup(ctx, name) })
}

func (ds directories) first(ask func(Directory) (Account, error)) (tokenissuer.Identity, error) {
	for _, d := range ds {
		account, err := ask(d)
		if err == nil {
			return tokenissuer.Identity{Name: account.Name, Version: account.Version}, nil
		}
		if !errors.Is(err, ErrUnknownAccount) {
			return tokenissuer.Identity{}, err
		}
	}
	return tokenissuer.Identity{}, ErrUnknownAccount
}
