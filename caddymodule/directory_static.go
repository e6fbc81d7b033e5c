package caddymodule

import (
	"context"
	"crypto/sha256"
	"encoding/base64"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
)

func init() { caddy.RegisterModule(new(StaticDirectory)) }

// StaticDirectory holds the accounts that the configuration itself lists.
type StaticDirectory struct {
	// Users are the accounts.
	Users []*StaticUser `json:"users,omitempty"`

	users map[string]*StaticUser
	decoy *StaticUser // compared with for the time it takes
}

// StaticUser is an account with a password.
type StaticUser struct {
	// Name is what the user logs in as.
	Name string `json:"name"`

	// Hash is the hashed password as `caddy hash-password` prints it:
	// bcrypt or argon2id.
	Hash string `json:"hash"`

	comparer caddyauth.Comparer
	maxLen   int // of a password in bytes; 0 for any
	version  string
}

// CaddyModule returns the Caddy module information.
func (*StaticDirectory) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.dependency_proxy.directory.static",
		New: func() caddy.Module { return new(StaticDirectory) },
	}
}

// Provision checks the accounts and indexes them.
func (s *StaticDirectory) Provision(caddy.Context) error {
	if err := checkEach("user", s.Users, userName); err != nil {
		return err
	}
	s.users = make(map[string]*StaticUser, len(s.Users))
	for _, u := range s.Users {
		var err error
		if u.comparer, u.maxLen, err = comparer(u.Hash); err != nil {
			return err
		}
		// The salt in the hash makes this tell nothing about the password.
		sum := sha256.Sum256([]byte("account version\x00" + u.Hash))
		u.version = base64.RawURLEncoding.EncodeToString(sum[:9])
		s.users[u.Name] = u
		s.decoy = u
	}
	return nil
}

// Authenticate implements [Directory].
func (s *StaticDirectory) Authenticate(ctx context.Context, login Login) (Account, error) {
	u := s.users[login.Name]
	if u == nil {
		if s.decoy != nil {
			if _, err := s.decoy.matches(ctx, login); err != nil {
				return Account{}, err
			}
		}
		return Account{}, ErrUnknownAccount
	}
	ok, err := u.matches(ctx, login)
	if err != nil {
		return Account{}, err
	}
	if !ok {
		return Account{}, ErrWrongPassword
	}
	return Account{Name: u.Name, Version: u.version}, nil
}

// Lookup implements [Directory].
func (s *StaticDirectory) Lookup(_ context.Context, name, _ string) (Account, error) {
	if u := s.users[name]; u != nil {
		return Account{Name: u.Name, Version: u.version}, nil
	}
	return Account{}, ErrUnknownAccount
}

// knows tells whether a name is one of the directory's accounts.
func (s *StaticDirectory) knows(name string) bool { return s.users[name] != nil }

// Interface guards
var (
	_ caddy.Provisioner = (*StaticDirectory)(nil)
	_ Directory         = (*StaticDirectory)(nil)
)
