package static

import (
	"context"
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

// Directory holds accounts with passwords: those that the configuration
// itself lists and those of a file.
type Directory struct {
	// Name names the directory where its accounts are listed, as in NAME:alice. The
	// default is static.
	Name string `json:"name,omitempty"`

	// Users are the accounts of the configuration.
	Users []*User `json:"users,omitempty"`

	// UsersFile is a file of more accounts, one NAME:HASH a line as htpasswd
	// writes them; empty lines and lines that begin with # do not count, and a
	// name must not be in Users too. It may hold 16 MiB. The path may have
	// placeholders. The file is read when the configuration is loaded, which
	// fails if it cannot be, and whenever it has changed, which has effect in
	// under a second. Of a version that is bad, half-written or gone nothing is
	// taken: the accounts stay as they were, and the log tells the line.
	UsersFile string `json:"users_file,omitempty"`

	// HashRaw compares passwords with hashes that are neither bcrypt nor
	// argon2id. Without it there must be none.
	HashRaw json.RawMessage `json:"hash,omitempty" caddy:"namespace=http.authentication.hashes inline_key=algorithm"`

	accounts atomic.Pointer[accounts]
	file     *usersFile         // of UsersFile, else nil
	hash     caddyauth.Comparer // of HashRaw, else nil
}

// accounts are all accounts of a directory at one time.
type accounts struct {
	byName     map[string]*User
	list       []*User
	generation uint64 // counts the versions of the file
}

// User is an account with a password.
type User struct {
	// Name is what the user logs in as.
	Name string `json:"name"`

	// Hash is the hashed password as `caddy hash-password` prints it: bcrypt
	// or argon2id, which are told by their prefix, or what the directory's
	// hash module reads.
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

// Provision checks the accounts and indexes them.
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

// add checks an account and makes it one of some accounts.
func (s *Directory) add(to *accounts, u *User) (err error) {
	if err := u.checkName(); err != nil {
		return err
	}
	if to.byName[u.Name] != nil {
		return fmt.Errorf("user %s is there twice", u.Name)
	}
	if u.comparer, u.maxLen, err = comparerOr(s.hash, u.Hash); err != nil {
		return u.badHash(err)
	}
	// The salt in the hash makes this tell nothing about the password.
	sum := sha256.Sum256([]byte("account version\x00" + u.Hash))
	u.version = base64.RawURLEncoding.EncodeToString(sum[:9])
	to.byName[u.Name] = u
	to.list = append(to.list, u)
	return nil
}

// now are the accounts, after a look at the file.
func (s *Directory) now() *accounts {
	if s.file != nil {
		s.file.look()
	}
	return s.accounts.Load()
}

// Authenticate implements [Directory]. An unknown name takes no time here: if it
// is not another directory's account either, a password is hashed for it at the
// end, one for all such directories; see [accounts.feign].
func (s *Directory) Authenticate(ctx context.Context, login directory.Login) (directory.Account, error) {
	u := s.now().byName[login.Name]
	if u == nil {
		return directory.Account{}, directory.ErrUnknownAccount
	}
	ok, err := u.matches(ctx, login)
	if err != nil {
		return directory.Account{}, err
	}
	if !ok {
		return directory.Account{}, directory.ErrWrongPassword
	}
	return directory.Account{Name: u.Name, Version: u.version}, nil
}

// Lookup implements [Directory].
func (s *Directory) Lookup(_ context.Context, name, _ string) (directory.Account, error) {
	if u := s.now().byName[name]; u != nil {
		return directory.Account{Name: u.Name, Version: u.version}, nil
	}
	return directory.Account{}, directory.ErrUnknownAccount
}

// Source implements [Sourced]: the accounts are those of the users file.
func (s *Directory) Source() string {
	if s.file == nil {
		return ""
	}
	return s.file.path
}

// Listed implements [Local].
func (s *Directory) Listed() []string {
	names := make([]string, len(s.Users))
	for i, u := range s.Users {
		names[i] = u.Name
	}
	return names
}

// Knows implements [Local].
func (s *Directory) Knows(name string) bool { return s.now().byName[name] != nil }

// Generation implements [Local].
func (s *Directory) Generation() uint64 { return s.now().generation }

// Len implements [Local].
func (s *Directory) Len() int { return len(s.accounts.Load().list) }

// FeignAs implements [Local].
func (s *Directory) FeignAs(ctx context.Context, login directory.Login, i int) error {
	list := s.accounts.Load().list
	if len(list) == 0 {
		return nil
	}
	return list[i%len(list)].feign(ctx, login)
}

// Interface guards
var (
	_ caddy.Provisioner = (*Directory)(nil)
	_ directory.Sourced = (*Directory)(nil)
	_ directory.Local   = (*Directory)(nil)
)
