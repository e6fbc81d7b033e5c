package access

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"strconv"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/password"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/accesstoken"
)

// refuseFor is how long a wrong login is remembered. The same login is refused within
// that time without asking any directory, so that a job with an old password, or an
// attacker, does not lock an account at the server of its directory.
const refuseFor = time.Minute

// refusals remembers wrong logins by a keyed digest of name and password. It
// belongs to the accounts of one site as they are configured, so a reload begins
// with an empty one, and no site decides about a login at another.
type refusals struct {
	cache *lru.Cache[sum, refusedLogin]
}

type refusedLogin struct {
	directory string // which has refused it, if one has
	err       error
	at        time.Time
}

func newRefusals() refusals {
	cache, err := lru.New[sum, refusedLogin](remembered)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	return refusals{cache}
}

func (r refusals) get(key sum) (refusedLogin, bool) {
	known, ok := r.cache.Get(key)
	if !ok || time.Since(known.at) >= refuseFor {
		return refusedLogin{}, false
	}
	return known, true
}

func (r refusals) add(key sum, directory string, err error) {
	r.cache.Add(key, refusedLogin{directory, err, time.Now()})
}

// refusalKey returns the key that a login is remembered under: its exact name and
// password, and the present accounts of the users files.
func (a *Accounts) refusalKey(name, secret string) (key sum) {
	texts := []string{"refused login", name, secret}
	for _, d := range a.directories {
		if local, ok := d.Directory.(directory.Local); ok {
			texts = append(texts, strconv.FormatUint(local.Generation(), 10))
		}
	}
	copy(key[:], password.Digest(texts...))
	return key
}

// Authenticate checks a login at each directory until one knows the account. An
// access token of our own is not shown to any directory, whatever user name it comes
// with.
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
	at, who, err := a.first(func(d directory.Directory) (directory.Account, error) {
		account, err := d.Authenticate(ctx, login)
		lasting = lasting && !errors.Is(err, directory.ErrThisRequest)
		return account, err
	})
	if !directory.IsRefusal(err) {
		return who, err
	}
	if trouble := a.feign(ctx, login, at); trouble != nil {
		return who, &hiddenRefusal{err, trouble}
	}
	if lasting && !errors.Is(err, directory.ErrBlocked) {
		a.refused.add(key, who.Directory, err)
	}
	return who, err
}

// hiddenRefusal is a refusal that the client is not told, since an unknown name
// could not be refused now.
type hiddenRefusal struct{ refusal, trouble error }

func (e *hiddenRefusal) Error() string { return e.refusal.Error() }
func (e *hiddenRefusal) Unwrap() error { return e.refusal }

// feign does for a login that the directory at this index has refused what it has
// not cost yet and an unknown name does: all other directories are asked, and one
// password is hashed. It returns why an unknown name could not be refused now, if
// so. No directory hears a name or a password that another one has refused.
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

var decoySeed = maphash.MakeSeed()

// feignLocally spends on the login of an unknown name what a wrong password of
// one of the accounts of the local directories costs. It is always the same
// account for the same name: where some hashes take longer than others, names
// that do not exist differ just as those that do.
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
	at := int(maphash.String(decoySeed, login.Name) % uint64(count))
	for _, d := range a.directories {
		if local, ok := d.Directory.(directory.Local); ok {
			if n := local.Len(); at >= n {
				at -= n
				continue
			}
			return local.FeignAs(ctx, login, at)
		}
	}
	return nil // the users file has lost accounts in between
}

func isLocal(d directory.Directory) bool {
	_, ok := d.(directory.Local)
	return ok
}
