package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// caller is who is asking, as the directories know it at this moment.
type caller struct {
	directory.Account
	anonymous bool
	directory string              // which one knows the account
	source    directory.Directory // the same
	token     string              // the id of the access token that stands for it, if any
	expires   time.Time           // when that ends
	refresh   refreshed           // the refresh token that stands for it, if any
}

// refreshed is a refresh token that was good a moment ago.
type refreshed struct {
	raw  string
	ends time.Time
}

// id returns the account as the configuration lists it.
func (c caller) id() accountID { return accountID{c.directory, c.Name} }

// identity is what of the caller goes into a token.
func (c caller) identity() tokenissuer.Identity {
	if c.anonymous {
		return tokenissuer.Identity{Anonymous: true}
	}
	if c.token != "" {
		// The access token's life counts, not that of the account's password.
		return tokenissuer.Identity{Name: c.Name, Directory: TokensDirectory, Facts: c.token}
	}
	return tokenissuer.Identity{Name: c.Name, Version: c.Version, Directory: c.directory, Facts: c.Facts}
}

// accounts are the directories of a site, asked in the order of the
// configuration, and what the configuration says of single accounts beside.
type accounts struct {
	directories []namedDirectory
	listed      struct{ admins, blocked []string } // as the configuration has them
	admins      map[accountID]bool
	blocked     map[accountID]bool // by folded names; of no directory means of each
	spellings   *spellings
	tokens      accessTokens // asked before all directories
	refused     refusals     // what the directories have refused just now
}

// namedDirectory is a directory under the name that the configuration and tokens
// know it by.
type namedDirectory struct {
	name string
	directory.Directory
}

func newAccounts(admins, blocked []string) *accounts {
	a := &accounts{refused: newRefusals()}
	a.listed.admins, a.listed.blocked = admins, blocked
	return a
}

// add appends a directory. What the listed names mean depends on which there are,
// so it is found out anew; names that mean nothing were refused before.
func (a *accounts) add(name string, d directory.Directory) {
	a.directories = append(a.directories, namedDirectory{name, d})
	a.admins, a.blocked = make(map[accountID]bool), make(map[accountID]bool)
	names := namesOf(a.directories)
	for _, entry := range a.listed.admins {
		if id, err := names.account("admins", entry); err == nil {
			a.admins[id] = true
		}
	}
	for _, entry := range a.listed.blocked {
		if id, err := names.blocked("blocked", entry); err == nil {
			a.blocked[id] = true
		}
	}
}

func (a *accounts) named(name string) (namedDirectory, bool) {
	for _, d := range a.directories {
		if d.name == name {
			return d, true
		}
	}
	return namedDirectory{}, false
}

// names returns how the directories are called, to read names of accounts by.
func (a *accounts) names() directoryList { return namesOf(a.directories) }

// find looks up an account as an administrator names it, which is as in the
// configuration. A bare name that could be several accounts' is a badOrder.
func (a *accounts) find(ctx context.Context, word, name string) (caller, error) {
	if id, ok := strings.CutPrefix(name, tokenName); ok && accesstoken.IsID(id) {
		token, err := a.tokens.store.Peek(ctx, id)
		return a.byToken(ctx, token, err)
	}
	id, err := a.names().account(word, name)
	if err != nil {
		return caller{}, badOrder(err.Error())
	}
	d, _ := a.named(id.directory)
	account, err := d.Lookup(ctx, id.name, "")
	return a.admit(d, account, err)
}

// first asks the directories in order, and tells which of them has decided. If
// none knows the account, that is the one behind the last, and the error has
// what they say of it for the audit log.
func (a *accounts) first(ask func(directory.Directory) (directory.Account, error)) (at int, who caller, err error) {
	var reasons []string
	for at, d := range a.directories {
		account, err := ask(d.Directory)
		if !errors.Is(err, directory.ErrUnknownAccount) {
			who, err := a.admit(d, account, err)
			return at, who, err
		}
		if err != directory.ErrUnknownAccount { // which says no more than that
			reason := strings.TrimPrefix(err.Error(), directory.ErrUnknownAccount.Error()+": ")
			reasons = append(reasons, "directory "+d.name+": "+reason)
		}
	}
	err = directory.ErrUnknownAccount
	if reasons != nil {
		err = fmt.Errorf("%w: %s", directory.ErrUnknownAccount, strings.Join(reasons, "; "))
	}
	return len(a.directories), caller{}, err
}

// current holds a token's identity against the directories as they are now: an
// account that is gone, blocked, of a directory that is not here or of another
// password has no valid tokens.
func (a *accounts) current(ctx context.Context, id tokenissuer.Identity) (caller, error) {
	if id.Anonymous {
		return caller{anonymous: true}, nil
	}
	if id.Directory == TokensDirectory {
		token, err := a.tokens.store.Find(ctx, id.Facts)
		who, err := a.byToken(ctx, token, err)
		if err == nil && who.Name != id.Name {
			return caller{}, directory.ErrUnknownAccount
		}
		return who, err
	}
	who, err := a.lookup(ctx, id.Name, id.Directory, id.Facts)
	if err == nil && who.Version != id.Version {
		return caller{}, directory.ErrUnknownAccount
	}
	return who, err
}

// lookup finds an account in the directory that it is of, and in no other.
func (a *accounts) lookup(ctx context.Context, name, in, facts string) (caller, error) {
	d, ok := a.named(in)
	if !ok {
		return caller{directory: in}, fmt.Errorf("%w: no directory is called %s", directory.ErrUnknownAccount, in)
	}
	return a.lookupIn(ctx, d, name, facts)
}

func (a *accounts) lookupIn(ctx context.Context, d namedDirectory, name, facts string) (caller, error) {
	if renamed, ok := d.Directory.(directory.Renamed); ok {
		name = renamed.FormerName(name, facts)
	}
	account, err := d.Lookup(ctx, name, facts)
	if err == nil && account.Name != name {
		err = directory.ErrUnknownAccount
	}
	return a.admit(d, account, err)
}

// admit applies what the configuration says of an account. With an error, the
// caller is no more than the directory's name.
func (a *accounts) admit(d namedDirectory, account directory.Account, err error) (caller, error) {
	if err != nil {
		return caller{directory: d.name}, fmt.Errorf("directory %s: %w", d.name, err)
	}
	who := caller{Account: account, directory: d.name, source: d.Directory}
	if a.isBlocked(who.id()) {
		return caller{directory: d.name}, directory.ErrBlocked
	}
	who.Admin = who.Admin || a.admins[who.id()]
	a.spellings.seen(who.id())
	return who, nil
}

func (a *accounts) isBlocked(id accountID) bool {
	if len(a.blocked) == 0 {
		return false
	}
	id.name = foldName(id.name)
	return a.blocked[id] || a.blocked[accountID{name: id.name}]
}

// lists tells whether the configuration itself has an account of this name.
func (a *accounts) lists(name string) bool {
	return slices.ContainsFunc(a.directories, func(d namedDirectory) bool {
		local, ok := d.Directory.(directory.Local)
		return ok && local.Knows(name)
	})
}

// within reports whether a group is another one or below it.
func within(group, above string) bool {
	rest, ok := strings.CutPrefix(group, above)
	return ok && (rest == "" || rest[0] == '/')
}

// unknown returns the entries that name an account of a directory which lists all
// of its accounts and does not have this one.
func (a *accounts) unknown(entries []string) (unknown []string) {
	names := a.names()
	for _, entry := range entries {
		id, err := names.account("members", entry)
		if err != nil {
			continue
		}
		d, _ := a.named(id.directory)
		if local, ok := d.Directory.(directory.Local); ok && !local.Knows(id.name) {
			unknown = append(unknown, entry)
		}
	}
	return unknown
}

// misspelled returns the entries of the configuration that differ from an account
// in spelling alone, and so mean another one.
func (a *accounts) misspelled(id accountID) (entries []string) {
	for _, entry := range a.spellings.others(id) {
		entries = append(entries, entry.String())
	}
	return entries
}

// asker returns the caller as directories count their questions by.
func (c caller) asker(address string) directory.Asker {
	if c.anonymous {
		return directory.Asker{Subnet: subnetOf(address)}
	}
	return directory.Asker{Directory: c.directory, Name: c.Name}
}
