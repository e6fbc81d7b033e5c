package caddymodule

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"runtime"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"
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

// bcryptLen is how much of a password bcrypt reads. More is refused: cut, it
// would let in whoever knows the beginning.
const bcryptLen = 72

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
func (s *StaticDirectory) Authenticate(_ context.Context, login Login) (Account, error) {
	u := s.users[login.Name]
	if u == nil {
		if s.decoy != nil {
			_, _ = s.decoy.matches(login.Password)
		}
		return Account{}, ErrUnknownAccount
	}
	ok, err := u.matches(login.Password)
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

// A CI logs in with the same password all day and a hash takes up to a second
// of a core, so what matched is remembered for the life of the process, as a
// keyed digest of hash and password; equal logins at the same time are one,
// and hashing never takes all cores from the pulls.
var (
	loginKey     = func() []byte { key := make([]byte, 32); _, _ = rand.Read(key); return key }()
	loginMatches = func() *lru.Cache[string, struct{}] {
		cache, err := lru.New[string, struct{}](4096)
		if err != nil {
			panic(err) // the size is a positive constant
		}
		return cache
	}()
	loginFlights singleflight.Group
	hashing      = make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))
)

func (u *StaticUser) matches(password string) (bool, error) {
	if u.maxLen > 0 && len(password) > u.maxLen {
		password = password[:u.maxLen]
		_, _ = u.compare(password)
		return false, nil
	}
	mac := hmac.New(sha256.New, loginKey)
	_, _ = fmt.Fprintf(mac, "%s\x00%s", u.Hash, password)
	key := string(mac.Sum(nil))
	if _, ok := loginMatches.Get(key); ok {
		return true, nil
	}
	ok, err, _ := loginFlights.Do(key, func() (any, error) {
		ok, err := u.compare(password)
		if ok && err == nil {
			loginMatches.Add(key, struct{}{})
		}
		return ok, err
	})
	return ok.(bool), err
}

func (u *StaticUser) compare(password string) (bool, error) {
	hashing <- struct{}{}
	defer func() { <-hashing }()
	return u.comparer.Compare([]byte(u.Hash), []byte(password))
}

// Interface guards
var (
	_ caddy.Provisioner = (*StaticDirectory)(nil)
	_ Directory         = (*StaticDirectory)(nil)
)
