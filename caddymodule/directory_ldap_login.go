package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// ldapNameLen is how long an account's name may be, in bytes.
const ldapNameLen = 256

// Authenticate implements [Directory].
func (l *LDAPDirectory) Authenticate(ctx context.Context, login Login) (Account, error) {
	if !l.mayBe(login) {
		return Account{}, ErrUnknownAccount
	}
	key := l.memory.loginKey(login.Name, login.Password)
	for again := false; ; again = true {
		known, err := l.memory.logins.get(ctx, key, l.patience(), func(ctx context.Context) (Account, error) {
			leave, err := l.pool.enter(ctx, login.Friendly)
			if err != nil {
				return Account{}, err
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
		l.memory.logins.forget(key)
		if again || now.Facts != known.Facts { // the name is another's by now
			return Account{}, ErrWrongPassword
		}
		// The password has been changed since; it is asked whether to this one.
	}
}

// Feign implements [CostlyDirectory].
func (l *LDAPDirectory) Feign(ctx context.Context, login Login) error {
	if !l.mayBe(login) {
		return nil
	}
	if _, err := l.Authenticate(ctx, login.Unknown()); err != nil && !isRefusal(err) {
		return err
	}
	return nil
}

// mayBe reports whether the server is asked about a login. A bind without a
// password is one as nobody, which servers let succeed, and some take a password
// to end at a zero byte.
func (l *LDAPDirectory) mayBe(login Login) bool {
	return validLDAPName(login.Name) && login.Password != "" && !strings.ContainsRune(login.Password, 0)
}

// errTokenToLDAP is about a password that has the shape of a token. The server does
// not get to see it: such guesses are not counted against the account, so many of
// them could lock it there.
var errTokenToLDAP = fmt.Errorf("%w: it is a token", ErrWrongPassword)

// searchAndBind is a login at a directory that can be searched.
func (l *LDAPDirectory) searchAndBind(ctx context.Context, login Login) (Account, error) {
	entry, err := l.find(ctx, login.Name)
	switch {
	case errors.Is(err, ErrUnknownAccount):
		return Account{}, l.notBound(ctx, err)
	case errors.Is(err, errSeveralEntries):
		return Account{}, l.notBound(ctx, fmt.Errorf("%w: %w", ErrWrongPassword, err))
	case err != nil:
		return Account{}, err
	}
	if login.Token {
		return Account{}, l.notBound(ctx, errTokenToLDAP)
	}
	if err := l.bind(ctx, entry.dn, login.Password, nil); err != nil {
		return Account{}, err
	}
	// By the name in the entry it must be found again, by each request.
	account, err := l.ask(ctx, entry.name)
	if err == nil && account.Facts != entry.same() {
		err = ErrUnknownAccount
	}
	if errors.Is(err, ErrUnknownAccount) || errors.Is(err, errSeveralEntries) {
		return Account{}, fmt.Errorf("an account is found by %q, and not by the name that %s has, %q: user_filter must find it by both", login.Name, l.AccountAttr, entry.name)
	}
	if err == nil {
		l.memory.accounts.learn(account.Name, account)
	}
	return account, err
}

// notBound returns a refusal for a name that there is nothing to bind as. It takes
// what a bind would take: a connection, for about as long.
func (l *LDAPDirectory) notBound(ctx context.Context, refusal error) error {
	err := l.pool.use(ctx, false, func(*ldapConn) error {
		l.memory.pause(ctx)
		return nil
	})
	if err != nil {
		return err
	}
	return refusal
}

// bindAlone is a login where only the account itself can ask.
func (l *LDAPDirectory) bindAlone(ctx context.Context, login Login) (account Account, err error) {
	if login.Token {
		return Account{}, l.notBound(ctx, errTokenToLDAP)
	}
	err = l.bind(ctx, l.userDN(login.Name), login.Password, func(c *ldapConn) error {
		entry, err := l.findWith(c, login.Name)
		if err != nil {
			return err
		}
		var ids []string
		if account, ids, err = l.withGroups(c, entry); err == nil {
			account.Facts, err = ldapFacts(account, ids, time.Now())
			account.Facts = l.source + " " + account.Facts
			account.RefreshFor = ldapFactsFor
		}
		return err
	})
	return account, err
}

// Lookup implements [Directory].
func (l *LDAPDirectory) Lookup(ctx context.Context, name, facts string) (Account, error) {
	if !validLDAPName(name) {
		return Account{}, ErrUnknownAccount
	}
	if l.BindDN == "" {
		told, ok := strings.CutPrefix(facts, l.source+" ")
		if !ok && facts != "" {
			return Account{}, fmt.Errorf("%w: it is known by its login at other servers", ErrUnknownAccount)
		}
		account, err := l.roles.fromFacts(name, told, time.Now())
		account.Facts = facts
		return account, err
	}
	account, err := l.memory.accounts.get(ctx, name, l.patience(), func(ctx context.Context) (Account, error) {
		account, err := l.ask(ctx, name)
		if err == nil && account.Name != name || errors.Is(err, errSeveralEntries) {
			err = fmt.Errorf("%w: user_filter finds another account by its name, or more than one", ErrUnknownAccount)
		}
		return account, err
	})
	if err == nil && facts != "" && facts != account.Facts {
		return Account{}, fmt.Errorf("%w: the name is another entry's by now", ErrUnknownAccount)
	}
	return account, err
}

// ask searches for an account and its groups.
func (l *LDAPDirectory) ask(ctx context.Context, name string) (account Account, err error) {
	err = l.pool.use(ctx, true, func(c *ldapConn) error {
		entry, err := l.findWith(c, name)
		if err != nil {
			return err
		}
		account, _, err = l.withGroups(c, entry)
		return err
	})
	return account, err
}

func (l *LDAPDirectory) patience() patience {
	// Connecting, and a few questions.
	return patience{fresh: time.Duration(l.CacheFor), grace: time.Duration(l.Grace), limit: 4 * time.Duration(l.Timeout)}
}

// validLDAPName tells whether a name can be that of an account here, and in
// Basic authentication and logs.
func validLDAPName(name string) bool {
	return name != "" && len(name) <= ldapNameLen && utf8.ValidString(name) &&
		!strings.ContainsFunc(name, func(r rune) bool { return r == ':' || !unicode.IsPrint(r) })
}
