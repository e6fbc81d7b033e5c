package access

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"strings"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/traces"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// Authenticate checks a login. An access token of the site is checked here,
// whatever the user name, and never shown to a directory. Other logins are
// checked by the directories in their order, until one knows the account.
//
// The error is a refusal (see [directory.IsRefusal]) if the login is wrong. With
// any other error it could not be checked. Next to an error, the caller has only
// the name of the directory that returned it, if one did.
//
// Authenticate does not limit the number of failed logins; see [Gate.Login].
func (a *Accounts) Authenticate(ctx context.Context, login directory.Login) (Caller, error) {
	if _, isToken := accesstoken.Parse(login.Password); isToken {
		token, err := a.tokens.store.Verify(ctx, login.Password)
		return a.byToken(ctx, token, err)
	}
	key := a.refusalKey(login.Name, login.Password)
	if known, ok := a.refused.get(key); ok {
		return Caller{Directory: known.directory}, known.err
	}
	lasting := true
	at, who, err := a.first(func(d Named) (directory.Account, error) {
		ctx, end := traces.StartDirectory(ctx, d.Name, "login")
		account, err := d.Authenticate(ctx, login)
		end(outage(err))
		lasting = lasting && !errors.Is(err, directory.ErrThisRequest)
		return account, err
	})
	if !directory.IsRefusal(err) {
		return who, err
	}
	if cause := a.feign(ctx, login, at); cause != nil {
		return who, &hiddenRefusal{err, cause}
	}
	if lasting && !errors.Is(err, directory.ErrBlocked) {
		a.refused.add(key, who.Directory, err)
	}
	return who, err
}

// first asks the directories in order until one knows the account, and returns
// its index. If none does, the index is the number of directories, and the error
// has the reason that each of them gave.
func (a *Accounts) first(ask func(Named) (directory.Account, error)) (at int, who Caller, err error) {
	var reasons []string
	for at, d := range a.directories {
		account, err := ask(d)
		if !errors.Is(err, directory.ErrUnknownAccount) {
			who, err := a.admit(d, account, err)
			return at, who, err
		}
		if err != directory.ErrUnknownAccount { // the plain error gives no reason
			reasons = append(reasons, "directory "+d.Name+": "+reasonOf(err))
		}
	}
	err = directory.ErrUnknownAccount
	if reasons != nil {
		err = fmt.Errorf("%w: %s", directory.ErrUnknownAccount, strings.Join(reasons, "; "))
	}
	return len(a.directories), Caller{}, err
}

// hiddenRefusal is a refusal that the client must not be told, because a login
// with an unknown name could not be refused now. It would reveal that the
// account exists.
type hiddenRefusal struct{ refusal, cause error }

func (e *hiddenRefusal) Error() string { return e.refusal.Error() }
func (e *hiddenRefusal) Unwrap() error { return e.refusal }

// feign makes a login that the directory at an index has refused cost as much as
// one with an unknown name: all later directories are asked, and one password is
// hashed. The error says why a login with an unknown name could not be refused
// now. A name or password that one directory has refused is not shown to others.
func (a *Accounts) feign(ctx context.Context, login directory.Login, at int) error {
	if at == len(a.directories) || !isLocal(a.directories[at].Directory) {
		if err := a.feignLocally(ctx, login); err != nil {
			return err
		}
	}
	for i := at + 1; i < len(a.directories); i++ {
		d := a.directories[i]
		if costly, ok := d.Directory.(directory.Costly); ok {
			if err := costly.Feign(ctx, login); err != nil {
				return fmt.Errorf("directory %s: %w", d.Name, err)
			}
		}
	}
	return nil
}

// feignSeed makes it unpredictable which account a name is compared with.
var feignSeed = maphash.MakeSeed()

// feignLocally hashes the password of a login with an unknown name like that of
// an account in one of the local directories. A name always gets the same
// account, so where some hashes are slower than others, the times of unknown
// names vary like those of existing names.
func (a *Accounts) feignLocally(ctx context.Context, login directory.Login) error {
	count := 0
	for _, d := range a.directories {
		if local, ok := d.Directory.(directory.Local); ok {
			count += local.Len()
		}
	}
	if count == 0 {
		return nil
	}
	at := int(maphash.String(feignSeed, login.Name) % uint64(count))
	for _, d := range a.directories {
		if local, ok := d.Directory.(directory.Local); ok {
			if n := local.Len(); at >= n {
				at -= n
				continue
			}
			return local.FeignAs(ctx, login, at)
		}
	}
	return nil // the users file has lost accounts since they were counted
}

func isLocal(d directory.Directory) bool {
	_, ok := d.(directory.Local)
	return ok
}
