package ldap

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
)

// nameLen is how long an account's name may be, in bytes.
const nameLen = 256

// Authenticate implements [Directory].
func (l *Directory) Authenticate(ctx context.Context, login directory.Login) (directory.Account, error) {
	if !l.mayBe(login) {
		return directory.Account{}, directory.ErrUnknownAccount
	}
	key := l.memory.loginKey(login.Name, login.Password)
	for again := false; ; again = true {
		known, err := l.memory.logins.Get(ctx, key, func(ctx context.Context) (directory.Account, error) {
			leave, err := l.dialer.enter(ctx, login.Friendly)
			if err != nil {
				return directory.Account{}, err
			}
			defer leave()
			if l.BindDN == "" {
				return l.bindAlone(ctx, login)
			}
			return l.searchAndBind(ctx, login)
		})
		if err != nil || l.BindDN == "" {
			return known, err
		}
		now, err := l.Lookup(ctx, known.Name, "")
		if err != nil || now.Version == known.Version {
			return now, err
		}
		l.memory.logins.Forget(key)
		if again || now.Facts != known.Facts { // the name is another's by now
			return directory.Account{}, directory.ErrWrongPassword
		}
		// The password has been changed since; it is asked whether to this one.
	}
}

// Feign implements [Costly].
func (l *Directory) Feign(ctx context.Context, login directory.Login) error {
	if !l.mayBe(login) {
		return nil
	}
	if _, err := l.Authenticate(ctx, login.Unknown()); err != nil && !directory.IsRefusal(err) {
		return err
	}
	return nil
}

// mayBe reports whether the server is asked about a login. A bind without a
// password is one as nobody, which servers let succeed, and some take a password
// to end at a zero byte.
func (l *Directory) mayBe(login directory.Login) bool {
	return validName(login.Name) && login.Password != "" && !strings.ContainsRune(login.Password, 0)
}

// errToken is about a password that has the shape of a token. The server does
// not get to see it: such guesses are not counted against the account, so many of
// them could lock it there.
var errToken = fmt.Errorf("%w: it is a token", directory.ErrWrongPassword)

// searchAndBind is a login at a directory that can be searched.
func (l *Directory) searchAndBind(ctx context.Context, login directory.Login) (directory.Account, error) {
	entry, err := l.find(ctx, login.Name)
	switch {
	case errors.Is(err, directory.ErrUnknownAccount):
		return directory.Account{}, l.notBound(ctx, err)
	case errors.Is(err, errSeveralEntries):
		return directory.Account{}, l.notBound(ctx, fmt.Errorf("%w: %w", directory.ErrWrongPassword, err))
	case err != nil:
		return directory.Account{}, err
	}
	if login.Token {
		return directory.Account{}, l.notBound(ctx, errToken)
	}
	if err := l.bind(ctx, entry.dn, login.Password, nil); err != nil {
		return directory.Account{}, err
	}
	// By the name in the entry it must be found again, by each request.
	account, err := l.ask(ctx, entry.name)
	if err == nil && account.Facts != entry.same() {
		err = directory.ErrUnknownAccount
	}
	if errors.Is(err, directory.ErrUnknownAccount) || errors.Is(err, errSeveralEntries) {
		return directory.Account{}, fmt.Errorf("an account is found by %q, and not by the name that %s has, %q: user_filter must find it by both", login.Name, l.AccountAttr, entry.name)
	}
	if err == nil {
		l.memory.accounts.Set(account.Name, account)
	}
	return account, err
}

// notBound returns a refusal for a name that there is nothing to bind as. It takes
// what a bind would take: a connection, for about as long.
func (l *Directory) notBound(ctx context.Context, refusal error) error {
	err := l.dialer.use(ctx, false, func(*conn) error {
		l.memory.pause(ctx)
		return nil
	})
	if err != nil {
		return err
	}
	return refusal
}

// bindAlone is a login where only the account itself can ask.
func (l *Directory) bindAlone(ctx context.Context, login directory.Login) (account directory.Account, err error) {
	if login.Token {
		return directory.Account{}, l.notBound(ctx, errToken)
	}
	err = l.bind(ctx, l.userDN(login.Name), login.Password, func(c *conn) error {
		entry, err := l.findWith(c, login.Name)
		if err != nil {
			return err
		}
		var ids []string
		if account, ids, err = l.withGroups(c, entry); err == nil {
			account.Facts, err = encodeFacts(account, ids, time.Now())
			account.Facts = l.source + " " + account.Facts
			account.RefreshFor = ldapFactsFor
		}
		return err
	})
	return account, err
}

// Lookup implements [Directory].
func (l *Directory) Lookup(ctx context.Context, name, facts string) (directory.Account, error) {
	if !validName(name) {
		return directory.Account{}, directory.ErrUnknownAccount
	}
	if l.BindDN == "" {
		told, ok := strings.CutPrefix(facts, l.source+" ")
		if !ok && facts != "" {
			return directory.Account{}, fmt.Errorf("%w: it is known by its login at other servers", directory.ErrUnknownAccount)
		}
		account, err := l.roles.fromFacts(name, told, time.Now())
		account.Facts = facts
		return account, err
	}
	account, err := l.memory.accounts.Get(ctx, name, func(ctx context.Context) (directory.Account, error) {
		account, err := l.ask(ctx, name)
		if err == nil && account.Name != name || errors.Is(err, errSeveralEntries) {
			err = fmt.Errorf("%w: user_filter finds another account by its name, or more than one", directory.ErrUnknownAccount)
		}
		return account, err
	})
	if err == nil && facts != "" && facts != account.Facts {
		return directory.Account{}, fmt.Errorf("%w: the name is another entry's by now", directory.ErrUnknownAccount)
	}
	return account, err
}

// ask searches for an account and its groups.
func (l *Directory) ask(ctx context.Context, name string) (account directory.Account, err error) {
	err = l.dialer.use(ctx, true, func(c *conn) error {
		entry, err := l.findWith(c, name)
		if err != nil {
			return err
		}
		account, _, err = l.withGroups(c, entry)
		return err
	})
	return account, err
}

// validName tells whether a name can be that of an account here, and in
// Basic authentication and logs.
func validName(name string) bool {
	return name != "" && len(name) <= nameLen && utf8.ValidString(name) &&
		!strings.ContainsFunc(name, func(r rune) bool { return r == ':' || !unicode.IsPrint(r) })
}
