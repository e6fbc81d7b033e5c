package ldap

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
)

// Authenticate implements [directory.Directory].
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
		if again || now.Facts != known.Facts { // another entry has the name now
			return directory.Account{}, directory.ErrWrongPassword
		}
		// The password has changed since then, perhaps to this one.
	}
}

// Feign implements [directory.Costly].
func (l *Directory) Feign(ctx context.Context, login directory.Login) error {
	if !l.mayBe(login) {
		return nil
	}
	if _, err := l.Authenticate(ctx, login.Unknown()); err != nil && !directory.IsRefusal(err) {
		return err
	}
	return nil
}

// mayBe reports whether the server is asked about a login. A bind without a password is
// anonymous, and succeeds (RFC 4513, section 5.1.2). Some servers end a password at a zero
// byte.
func (l *Directory) mayBe(login directory.Login) bool {
	return validName(login.Name) && login.Password != "" && !strings.ContainsRune(login.Password, 0)
}

// errToken refuses a password that has the form of a token. It is not sent to the server:
// such guesses are not counted against the account here, so many of them could lock it
// there.
var errToken = fmt.Errorf("%w: it has the form of a token", directory.ErrWrongPassword)

// searchAndBind checks a login with the help of the service account.
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
	// Each request will search for the name in the entry.
	account, err := l.ask(ctx, entry.name)
	if err == nil && account.Facts != entry.same() {
		err = directory.ErrUnknownAccount
	}
	if errors.Is(err, directory.ErrUnknownAccount) || errors.Is(err, errSeveralEntries) {
		return directory.Account{}, fmt.Errorf("an account is found by %q but not by its %s, %q; write a user_filter that finds it by both", login.Name, l.AccountAttr, entry.name)
	}
	if err == nil {
		l.memory.accounts.Set(account.Name, account)
	}
	return account, err
}

// notBound returns a refusal for a login without a bind. It takes what a bind would take:
// a connection, for about as long.
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

// bindAlone checks a login without a service account.
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
			account.RefreshFor = factsFor
		}
		return err
	})
	return account, err
}

// Lookup implements [directory.Directory].
func (l *Directory) Lookup(ctx context.Context, name, facts string) (directory.Account, error) {
	if !validName(name) {
		return directory.Account{}, directory.ErrUnknownAccount
	}
	if l.BindDN == "" {
		told, ok := strings.CutPrefix(facts, l.source+" ")
		if !ok && facts != "" {
			return directory.Account{}, fmt.Errorf("%w: the login was at other servers", directory.ErrUnknownAccount)
		}
		account, err := l.roles.fromFacts(name, told, time.Now())
		account.Facts = facts
		return account, err
	}
	account, err := l.memory.accounts.Get(ctx, name, func(ctx context.Context) (directory.Account, error) {
		account, err := l.ask(ctx, name)
		if err == nil && account.Name != name || errors.Is(err, errSeveralEntries) {
			err = fmt.Errorf("%w: user_filter finds another account by its name, or several", directory.ErrUnknownAccount)
		}
		return account, err
	})
	if err == nil && facts != "" && facts != account.Facts {
		return directory.Account{}, fmt.Errorf("%w: another entry has the name now", directory.ErrUnknownAccount)
	}
	return account, err
}

// ask searches for an account and its groups as the service account.
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

// validName reports whether a name can be the name of an account, in Basic credentials
// and in logs.
func validName(name string) bool {
	return directory.CheckAccountName(name) == nil &&
		!strings.ContainsFunc(name, func(r rune) bool { return r == ':' || !unicode.IsPrint(r) })
}
