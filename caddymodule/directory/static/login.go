package static

import (
	"context"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/password"
)

// Authenticate implements [directory.Directory]. It refuses an unknown name without
// delay. If no other directory has the account either, the handler calls FeignAs of
// one local directory.
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

// Lookup implements [directory.Directory].
func (s *Directory) Lookup(_ context.Context, name, _ string) (directory.Account, error) {
	if u := s.now().byName[name]; u != nil {
		return directory.Account{Name: u.Name, Version: u.version}, nil
	}
	return directory.Account{}, directory.ErrUnknownAccount
}

// FeignAs implements [directory.Local].
func (s *Directory) FeignAs(ctx context.Context, login directory.Login, i int) error {
	list := s.accounts.Load().list
	if len(list) == 0 {
		return nil
	}
	return list[i%len(list)].feign(ctx, login)
}

// matches reports whether the login has the password of the user.
func (u *User) matches(ctx context.Context, login directory.Login) (bool, error) {
	return password.Once(ctx, login, u.Hash, func() (bool, error) { return u.compare(login.Password) })
}

// feign makes the login of an unknown name wait for the turn in the queue that it
// would take if this account had the name. As for a wrong password, no result is
// remembered beforehand, and only an equal login shares the turn: otherwise an
// unknown name would be refused sooner than others.
func (u *User) feign(ctx context.Context, login directory.Login) error {
	key := password.Digest("nobody", login.Name, u.Hash, login.Password)
	_, err := password.InTurn(ctx, login, key, func() (bool, error) { return u.compare(login.Password) })
	return err
}

// compare compares a password with the hash of the user. A password that is too long
// to be right takes as long as any other.
func (u *User) compare(password string) (bool, error) {
	tooLong := u.maxLen > 0 && len(password) > u.maxLen
	if tooLong {
		password = password[:u.maxLen]
	}
	ok, err := u.comparer.Compare([]byte(u.Hash), []byte(password))
	return ok && !tooLong, err
}
