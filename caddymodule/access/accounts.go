package access

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/traces"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// Accounts finds the accounts of a site: those of its directories, which are
// asked in the order of the configuration, and those of its access tokens.
type Accounts struct {
	directories []Named
	config      Config
	admins      map[ID]bool
	blocked     map[ID]bool // names are folded; an empty directory means all of them
	spellings   *spellings
	tokens      siteTokens
	refused     refusals
}

// Named is a directory and its name in the configuration and in tokens.
type Named struct {
	Name string
	directory.Directory
}

// Config is the part of the configuration that is about accounts. Accounts are
// written as in the Caddyfile; see [Directories.Account].
type Config struct {
	// Site is the name of the site, for access tokens. It may be empty.
	Site string

	// Admins lists the accounts that may do everything on the site.
	Admins []string

	// Blocked lists the accounts that must not log in; see [Directories.Blocked].
	Blocked []string

	// Groups are the declared groups. They are used to find misspelled entries.
	Groups []Group

	// Logger logs misspelled entries; nil for none.
	Logger *zap.Logger
}

// NewAccounts returns the accounts of a site without directories. Entries of the
// configuration that name no account are ignored: they are expected to have been
// rejected before.
func NewAccounts(c Config) *Accounts {
	if c.Logger == nil {
		c.Logger = zap.NewNop()
	}
	return &Accounts{config: c, tokens: siteTokens{site: c.Site}, refused: newRefusals()}
}

// UseTokens sets the store of the access tokens. It must be called before any
// access token is used.
func (a *Accounts) UseTokens(store *accesstoken.Store) { a.tokens.store = store }

// DisableTokens makes all access tokens of the site invalid with [ErrAmbiguous].
// It is for two sites of one name with different accounts or groups, since a
// token could be meant for either.
func (a *Accounts) DisableTokens() { a.tokens.ambiguous.Store(true) }

// Directories returns the directories in their order.
func (a *Accounts) Directories() []Named { return a.directories }

// Add appends a directory. It must not be called concurrently with any other
// method.
func (a *Accounts) Add(name string, d directory.Directory) {
	a.directories = append(a.directories, Named{name, d})
	// The account of a bare name depends on all directories.
	a.admins, a.blocked = make(map[ID]bool), make(map[ID]bool)
	names := a.names()
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

// named returns the directory with a name.
func (a *Accounts) named(name string) (Named, bool) {
	for _, d := range a.directories {
		if d.Name == name {
			return d, true
		}
	}
	return Named{}, false
}

// names returns the names of the directories, to resolve entries with.
func (a *Accounts) names() Directories { return namesOf(a.directories) }

// Find returns the account that an administrator has written as in the
// configuration, such as DIRECTORY:NAME or token:ID. The option names the flag
// or field that it was written in, for error texts.
//
// The error is a [RequestError] if the name is ambiguous or has an unknown
// directory, and a refusal (see [directory.IsRefusal]) if the account does not
// exist or is blocked. Any other error means that the directory could not answer.
func (a *Accounts) Find(ctx context.Context, option, name string) (Caller, error) {
	if id, ok := strings.CutPrefix(name, tokenName); ok && accesstoken.IsID(id) {
		token, err := a.tokens.store.Peek(ctx, id)
		return a.byToken(ctx, token, err)
	}
	id, err := a.names().Account(option, name)
	if err != nil {
		return Caller{}, RequestError(err.Error())
	}
	d, _ := a.named(id.directory)
	account, err := d.Lookup(ctx, id.name, "")
	return a.admit(d, account, err)
}

// Current returns the account that a token identifies as it is now. The error is
// a refusal (see [directory.IsRefusal]) if the account no longer exists or is
// blocked, if its directory is not part of the site, or if its password has
// changed. With any other error the directory could not answer.
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
	d, ok := a.named(id.Directory)
	if !ok {
		return Caller{Directory: id.Directory}, fmt.Errorf("%w: the site has no directory %s", directory.ErrUnknownAccount, id.Directory)
	}
	who, err := a.lookup(ctx, d, id.Name, id.Facts)
	if err == nil && who.Version != id.Version {
		return Caller{}, directory.ErrUnknownAccount
	}
	return who, err
}

// lookup returns an account of a directory. The directory must return it under
// the name that was asked for: another name would be another account.
func (a *Accounts) lookup(ctx context.Context, d Named, name, facts string) (Caller, error) {
	if renamed, ok := d.Directory.(directory.Renamed); ok {
		name = renamed.FormerName(name, facts)
	}
	ctx, end := traces.StartDirectory(ctx, d.Name, "lookup")
	account, err := d.Lookup(ctx, name, facts)
	end(outage(err))
	if err == nil && account.Name != name {
		err = directory.ErrUnknownAccount
	}
	return a.admit(d, account, err)
}

// admit returns the caller for the answer of a directory, with the rights that
// the configuration gives or takes. Next to an error it only has the directory.
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

// Unknown returns those of the given entries that name an account which does not
// exist. Only directories that hold their accounts in memory are asked.
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

// isLocalName reports whether a directory that holds its accounts in memory has
// an account with a name.
func (a *Accounts) isLocalName(name string) bool {
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

// Misspelled returns the entries of the configuration that differ from an
// account only in spelling, and so do not apply to it.
func (a *Accounts) Misspelled(id ID) (entries []string) {
	for _, entry := range a.spellings.others(id) {
		entries = append(entries, entry.String())
	}
	return entries
}
