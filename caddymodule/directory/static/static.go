// Package static is the directory of accounts with passwords that are listed in the
// configuration or in a file: the module http.dependency_proxy.directory.static.
//
// It knows exactly the accounts of its user lines and of its users file, and compares
// a password with the hash of the account: bcrypt, argon2id, or what a module of
// http.authentication.hashes reads. It looks at the file when it is asked, at most a
// few times a second, and replaces all accounts if the file has changed; a version
// that is damaged or half-written changes nothing. It remembers nothing else. Which
// passwords have matched is remembered by package password, which also limits how
// many are hashed at once.
package static

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
)

func init() { caddy.RegisterModule(new(Directory)) }

// Directory is a directory of accounts with passwords, in the configuration and in a
// file.
type Directory struct {
	// Name is the name by which the configuration lists accounts of this directory,
	// as in NAME:alice. The default is static.
	Name string `json:"name,omitempty"`

	// Users are the accounts in the configuration.
	Users []*User `json:"users,omitempty"`

	// UsersFile is the path of a file with more accounts, which may contain
	// placeholders. Each line is NAME:HASH, as htpasswd writes it; empty lines and
	// lines that begin with # are ignored. A name must not be in Users too. The file
	// may have up to 16 MiB. It is read when the configuration is loaded, which fails
	// if the file cannot be read, and again within a second when it has changed. If
	// the new version is damaged, half-written or missing, the accounts stay as they
	// were, and the log names the line.
	UsersFile string `json:"users_file,omitempty"`

	// HashRaw is the module that compares passwords with hashes that are neither
	// bcrypt nor argon2id. Without it such hashes are rejected.
	HashRaw json.RawMessage `json:"hash,omitempty" caddy:"namespace=http.authentication.hashes inline_key=algorithm"`

	accounts atomic.Pointer[accounts]
	file     *usersFile         // of UsersFile, or nil
	hash     caddyauth.Comparer // of HashRaw, or nil
}

// accounts are all accounts of a directory at one time.
type accounts struct {
	byName     map[string]*User
	list       []*User
	generation uint64 // counts the versions of the file
}

// User is an account with a password.
type User struct {
	// Name is the user name to log in with.
	Name string `json:"name"`

	// Hash is the hash of the password as `caddy hash-password` prints it: bcrypt or
	// argon2id, or what the hash module of the directory reads.
	Hash string `json:"hash"`

	comparer caddyauth.Comparer
	maxLen   int // of a password in bytes; 0 for any
	version  string
}

// CaddyModule returns the Caddy module information.
func (*Directory) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.dependency_proxy.directory.static",
		New: func() caddy.Module { return new(Directory) },
	}
}

// Provision checks the accounts and reads the users file.
func (s *Directory) Provision(ctx caddy.Context) error {
	if s.HashRaw != nil {
		mod, err := ctx.LoadModule(s, "HashRaw")
		if err != nil {
			return err
		}
		s.hash = mod.(caddyauth.Comparer)
	}
	own := &accounts{byName: make(map[string]*User, len(s.Users))}
	for _, u := range s.Users {
		if err := s.add(own, u); err != nil {
			return err
		}
	}
	s.accounts.Store(own)
	if s.UsersFile == "" {
		return nil
	}
	path, err := caddy.NewReplacer().ReplaceOrErr(s.UsersFile, true, true)
	if err != nil {
		return fmt.Errorf("users_file: %w", err)
	}
	s.file = &usersFile{path: path, logger: ctx.Logger(), take: s.takeFile}
	return s.file.open()
}

// add checks an account and adds it to others.
func (s *Directory) add(to *accounts, u *User) (err error) {
	if err := u.checkName(); err != nil {
		return err
	}
	if to.byName[u.Name] != nil {
		return fmt.Errorf("duplicate user '%s'", u.Name)
	}
	if u.comparer, u.maxLen, err = comparerOr(s.hash, u.Hash); err != nil {
		return u.badHash(err)
	}
	// Because of the salt in the hash, the version reveals nothing about the password.
	sum := sha256.Sum256([]byte("account version\x00" + u.Hash))
	u.version = base64.RawURLEncoding.EncodeToString(sum[:9])
	to.byName[u.Name] = u
	to.list = append(to.list, u)
	return nil
}

// now returns the accounts, after it has looked at the file.
func (s *Directory) now() *accounts {
	if s.file != nil {
		s.file.look()
	}
	return s.accounts.Load()
}

// Source implements [directory.Sourced]. It is the path of the users file.
func (s *Directory) Source() string {
	if s.file == nil {
		return ""
	}
	return s.file.path
}

// Listed implements [directory.Local].
func (s *Directory) Listed() []string {
	names := make([]string, len(s.Users))
	for i, u := range s.Users {
		names[i] = u.Name
	}
	return names
}

// Generation implements [directory.Local].
func (s *Directory) Generation() uint64 { return s.now().generation }

// Len implements [directory.Local].
func (s *Directory) Len() int { return len(s.accounts.Load().list) }

// Interface guards
var (
	_ caddy.Provisioner = (*Directory)(nil)
	_ directory.Sourced = (*Directory)(nil)
	_ directory.Local   = (*Directory)(nil)
)
