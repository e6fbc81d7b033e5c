package access

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// Caller is who is asking, as the directories know it at this moment.
type Caller struct {
	directory.Account
	Anonymous bool
	Directory string              // which one knows the account
	source    directory.Directory // the same
	Token     string              // the id of the access token that stands for it, if any
	Expires   time.Time           // when that ends
	Refresh   Refresh             // the refresh token that stands for it, if any
}

// Refresh is a refresh token that was good a moment ago.
type Refresh struct {
	Raw  string
	Ends time.Time
}

// ID returns the account as the configuration lists it.
func (c Caller) ID() ID { return ID{c.Directory, c.Name} }

// Identity is what of the caller goes into a token.
func (c Caller) Identity() tokenissuer.Identity {
	if c.Anonymous {
		return tokenissuer.Identity{Anonymous: true}
	}
	if c.Token != "" {
		// The access token's life counts, not that of the account's password.
		return tokenissuer.Identity{Name: c.Name, Directory: TokensDirectory, Facts: c.Token}
	}
	return tokenissuer.Identity{Name: c.Name, Version: c.Version, Directory: c.Directory, Facts: c.Facts}
}

// Accounts are the directories of a site, asked in the order of the
// configuration, and what the configuration says of single accounts beside.
type Accounts struct {
	directories []Named
	config      Config
	admins      map[ID]bool
	blocked     map[ID]bool // by folded names; of no directory means of each
	spellings   *spellings
	tokens      siteTokens // asked before all directories
	refused     refusals   // what the directories have refused just now
}

// Named is a directory under the name that the configuration and tokens
// know it by.
type Named struct {
	Name string
	directory.Directory
}

// Config is what the configuration says of accounts, as it lists them.
type Config struct {
	Site            string // the name of the site
	Admins, Blocked []string
	Groups          []Group
	Logger          *zap.Logger // nil for none
}

func NewAccounts(c Config) *Accounts {
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	return &Accounts{config: c, tokens: siteTokens{site: c.Site}, refused: newRefusals()}
}

// UseTokens sets the access tokens.
func (a *Accounts) UseTokens(store *accesstoken.Store) { a.tokens.store = store }

// DisableTokens makes all access tokens invalid, since another site has the same
// name and other accounts or groups: a token could be meant for either.
func (a *Accounts) DisableTokens() { a.tokens.ambiguous.Store(true) }

// Directories returns the directories in their order.
func (a *Accounts) Directories() []Named { return a.directories }

// Add appends a directory. What the listed names mean depends on which there are,
// so it is found out anew; names that mean nothing were refused before.
func (a *Accounts) Add(name string, d directory.Directory) {
	a.directories = append(a.directories, Named{name, d})
	a.admins, a.blocked = make(map[ID]bool), make(map[ID]bool)
	names := namesOf(a.directories)
	for _, entry := range a.config.Admins {
		if id, err := names.Account("admins", entry); err == nil {
			a.admins[id] = true
		}
	}
	for _, entry := range a.config.Blocked {
		if id, err := names.Blocked("blocked", entry); err == nil {
			a.blocked[id] = true
		}
	}
	a.spellings = newSpellings(a.config.Logger, names, a.config.Admins, a.config.Groups)
}

func (a *Accounts) named(name string) (Named, bool) {
	for _, d := range a.directories {
		if d.Name == name {
			return d, true
		}
	}
	return Named{}, false
}

// names returns how the directories are called, to read names of accounts by.
func (a *Accounts) names() Directories { return namesOf(a.directories) }

// Find looks up an account as an administrator names it, which is as in the
// configuration. A bare name that could be several accounts' is a RequestError.
func (a *Accounts) Find(ctx context.Context, word, name string) (Caller, error) {
	if id, ok := strings.CutPrefix(name, tokenName); ok && accesstoken.IsID(id) {
		token, err := a.tokens.store.Peek(ctx, id)
		return a.byToken(ctx, token, err)
	}
	id, err := a.names().Account(word, name)
	if err != nil {
		return Caller{}, RequestError(err.Error())
	}
	d, _ := a.named(id.directory)
	account, err := d.Lookup(ctx, id.name, "")
	return a.admit(d, account, err)
}

// first asks the directories in order, and tells which of them has decided. If
// none knows the account, that is the one behind the last, and the error has
// what they say of it for the audit log.
func (a *Accounts) first(ask func(directory.Directory) (directory.Account, error)) (at int, who Caller, err error) {
	var reasons []string
	for at, d := range a.directories {
		account, err := ask(d.Directory)
		if !errors.Is(err, directory.ErrUnknownAccount) {
			who, err := a.admit(d, account, err)
			return at, who, err
		}
		if err != directory.ErrUnknownAccount { // which says no more than that
			reason := strings.TrimPrefix(err.Error(), directory.ErrUnknownAccount.Error()+": ")
			reasons = append(reasons, "directory "+d.Name+": "+reason)
		}
	}
	err = directory.ErrUnknownAccount
	if reasons != nil {
		err = fmt.Errorf("%w: %s", directory.ErrUnknownAccount, strings.Join(reasons, "; "))
	}
	return len(a.directories), Caller{}, err
}

// Current holds a token's identity against the directories as they are now: an
// account that is gone, blocked, of a directory that is not here or of another
// password has no valid tokens.
func (a *Accounts) Current(ctx context.Context, id tokenissuer.Identity) (Caller, error) {
	if id.Anonymous {
		return Caller{Anonymous: true}, nil
	}
	if id.Directory == TokensDirectory {
		token, err := a.tokens.store.Find(ctx, id.Facts)
		who, err := a.byToken(ctx, token, err)
		if err == nil && who.Name != id.Name {
			return Caller{}, directory.ErrUnknownAccount
		}
		return who, err
	}
	who, err := a.lookup(ctx, id.Name, id.Directory, id.Facts)
	if err == nil && who.Version != id.Version {
		return Caller{}, directory.ErrUnknownAccount
	}
	return who, err
}

// lookup finds an account in the directory that it is of, and in no other.
func (a *Accounts) lookup(ctx context.Context, name, in, facts string) (Caller, error) {
	d, ok := a.named(in)
	if !ok {
		return Caller{Directory: in}, fmt.Errorf("%w: no directory is called %s", directory.ErrUnknownAccount, in)
	}
	return a.lookupIn(ctx, d, name, facts)
}

func (a *Accounts) lookupIn(ctx context.Context, d Named, name, facts string) (Caller, error) {
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
func (a *Accounts) admit(d Named, account directory.Account, err error) (Caller, error) {
	if err != nil {
		return Caller{Directory: d.Name}, fmt.Errorf("directory %s: %w", d.Name, err)
	}
	who := Caller{Account: account, Directory: d.Name, source: d.Directory}
	if a.isBlocked(who.ID()) {
		return Caller{Directory: d.Name}, directory.ErrBlocked
	}
	who.Admin = who.Admin || a.admins[who.ID()]
	a.spellings.seen(who.ID())
	return who, nil
}

func (a *Accounts) isBlocked(id ID) bool {
	if len(a.blocked) == 0 {
		return false
	}
	id.name = foldName(id.name)
	return a.blocked[id] || a.blocked[ID{name: id.name}]
}

// lists tells whether the configuration itself has an account of this name.
func (a *Accounts) lists(name string) bool {
	return slices.ContainsFunc(a.directories, func(d Named) bool {
		local, ok := d.Directory.(directory.Local)
		return ok && holds(local, name)
	})
}

// holds reports whether a local directory has an account with a name.
func holds(d directory.Local, name string) bool {
	_, err := d.Lookup(context.Background(), name, "")
	return err == nil
}

// within reports whether a group is another one or below it.
func within(group, above string) bool {
	rest, ok := strings.CutPrefix(group, above)
	return ok && (rest == "" || rest[0] == '/')
}

// Unknown returns the entries that name an account of a directory which lists all
// of its accounts and does not have this one.
func (a *Accounts) Unknown(entries []string) (unknown []string) {
	names := a.names()
	for _, entry := range entries {
		id, err := names.Account("members", entry)
		if err != nil {
			continue
		}
		d, _ := a.named(id.directory)
		if local, ok := d.Directory.(directory.Local); ok && !holds(local, id.name) {
			unknown = append(unknown, entry)
		}
	}
	return unknown
}

// Misspelled returns the entries of the configuration that differ from an account
// in spelling alone, and so mean another one.
func (a *Accounts) Misspelled(id ID) (entries []string) {
	for _, entry := range a.spellings.others(id) {
		entries = append(entries, entry.String())
	}
	return entries
}

// Asker returns the caller as directories count their questions by.
func (c Caller) Asker(address string) directory.Asker {
	if c.Anonymous {
		return directory.Asker{Subnet: subnetOf(address)}
	}
	return directory.Asker{Directory: c.Directory, Name: c.Name}
}
