package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/accesstoken"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
)

// caller is who is asking, as the directories know it at this moment.
type caller struct {
	Account
	anonymous bool
	directory string    // which one knows the account
	source    Directory // the same
	token     string    // the id of the access token that stands for it, if any
	expires   time.Time // when that ends
	refresh   refreshed // the refresh token that stands for it, if any
}

// refreshed is a refresh token that was good a moment ago.
type refreshed struct {
	raw  string
	ends time.Time
}

// identity is what of the caller goes into a token.
func (c caller) identity() tokenissuer.Identity {
	if c.anonymous {
		return tokenissuer.Identity{Anonymous: true}
	}
	if c.token != "" {
		// The access token's life counts, not that of the account's password.
		return tokenissuer.Identity{Name: c.Name, Directory: tokensDirectory, Facts: c.token}
	}
	return tokenissuer.Identity{Name: c.Name, Version: c.Version, Directory: c.directory, Facts: c.Facts}
}

// accounts are the directories of a site, asked in the order of the
// configuration, and what the configuration says of single accounts beside.
type accounts struct {
	directories []namedDirectory
	admins      map[string]bool
	blocked     map[string]bool
	tokens      accessTokens // asked before all directories
	refused     refusals     // what the directories have refused just now
}

// namedDirectory is a directory under the name that tokens know it by.
type namedDirectory struct {
	name string
	Directory
}

func newAccounts(admins, blocked []string) *accounts {
	a := &accounts{admins: make(map[string]bool), blocked: make(map[string]bool), refused: newRefusals()}
	for _, name := range admins {
		a.admins[name] = true
	}
	for _, name := range blocked {
		a.blocked[name] = true
	}
	return a
}

// add appends a directory. Its name is that of its module, with a number from
// the second one of a kind on.
func (a *accounts) add(kind string, d Directory) {
	name := kind
	for n := 2; name == tokensDirectory || a.named(name) != nil; n++ {
		name = fmt.Sprintf("%s-%d", kind, n)
	}
	a.directories = append(a.directories, namedDirectory{name, d})
}

func (a *accounts) named(name string) Directory {
	for _, d := range a.directories {
		if d.name == name {
			return d.Directory
		}
	}
	return nil
}

// find looks an account up by its name alone, as an administrator names it.
func (a *accounts) find(ctx context.Context, name string) (caller, error) {
	if id, ok := strings.CutPrefix(name, tokenName); ok && accesstoken.IsID(id) {
		token, err := a.tokens.store.Peek(ctx, id)
		return a.byToken(ctx, token, err)
	}
	_, who, err := a.first(func(d Directory) (Account, error) { return d.Lookup(ctx, name, "") })
	return who, err
}

// first asks the directories in order, and tells which of them has decided. If
// none knows the account, that is the one behind the last, and the error has
// what they say of it for the audit log.
func (a *accounts) first(ask func(Directory) (Account, error)) (at int, who caller, err error) {
	var reasons []string
	for at, d := range a.directories {
		account, err := ask(d.Directory)
		if !errors.Is(err, ErrUnknownAccount) {
			who, err := a.admit(d, account, err)
			return at, who, err
		}
		if err != ErrUnknownAccount { // which says no more than that
			reason := strings.TrimPrefix(err.Error(), ErrUnknownAccount.Error()+": ")
			reasons = append(reasons, "directory "+d.name+": "+reason)
		}
	}
	err = ErrUnknownAccount
	if reasons != nil {
		err = fmt.Errorf("%w: %s", ErrUnknownAccount, strings.Join(reasons, "; "))
	}
	return len(a.directories), caller{}, err
}

// current holds a token's identity against the directories as they are now: an
// account that is gone, blocked, another's by now or of another password has
// no valid tokens.
func (a *accounts) current(ctx context.Context, id tokenissuer.Identity) (caller, error) {
	if id.Anonymous {
		return caller{anonymous: true}, nil
	}
	if id.Directory == tokensDirectory {
		token, err := a.tokens.store.Find(ctx, id.Facts)
		who, err := a.byToken(ctx, token, err)
		if err == nil && who.Name != id.Name {
			return caller{}, ErrUnknownAccount
		}
		return who, err
	}
	who, err := a.lookup(ctx, id.Name, id.Directory, id.Facts)
	if err == nil && who.Version != id.Version {
		return caller{}, ErrUnknownAccount
	}
	return who, err
}

// lookup finds an account in the directory that it is known to be of.
func (a *accounts) lookup(ctx context.Context, name, directory, facts string) (caller, error) {
	for _, d := range a.directories {
		if d.name == directory {
			account, err := d.Lookup(ctx, name, facts)
			if err == nil && account.Name != name {
				err = ErrUnknownAccount
			}
			return a.admit(d, account, err)
		}
		// A name that the configuration has given away since is another's.
		if static := d.static(); static != nil && static.knows(name) {
			break
		}
	}
	return caller{}, ErrUnknownAccount
}

// admit applies what the configuration says of an account. With an error, the
// caller is no more than the directory's name.
func (a *accounts) admit(d namedDirectory, account Account, err error) (caller, error) {
	if err != nil {
		return caller{directory: d.name}, fmt.Errorf("directory %s: %w", d.name, err)
	}
	if a.blocked[account.Name] {
		return caller{directory: d.name}, ErrBlocked
	}
	account.Admin = account.Admin || a.admins[account.Name]
	return caller{Account: account, directory: d.name, source: d.Directory}, nil
}

// lists tells whether the configuration itself has an account of this name.
func (a *accounts) lists(name string) bool {
	return slices.ContainsFunc(a.directories, func(d namedDirectory) bool {
		static := d.static()
		return static != nil && static.knows(name)
	})
}

// within reports whether a group is another one or below it.
func within(group, above string) bool {
	rest, ok := strings.CutPrefix(group, above)
	return ok && (rest == "" || rest[0] == '/')
}
