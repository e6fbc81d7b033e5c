package caddymodule

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

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
	cache *lru.Cache[loginSum, refusedLogin]
}

type refusedLogin struct {
	directory string // which has refused it, if one has
	err       error
	at        time.Time
}

func newRefusals() refusals {
	cache, err := lru.New[loginSum, refusedLogin](remembered)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	return refusals{cache}
}

func (r refusals) get(key loginSum) (refusedLogin, bool) {
	known, ok := r.cache.Get(key)
	if !ok || time.Since(known.at) >= refuseFor {
		return refusedLogin{}, false
	}
	return known, true
}

func (r refusals) add(key loginSum, directory string, err error) {
	r.cache.Add(key, refusedLogin{directory, err, time.Now()})
}

// refusalKey returns the key that a login is remembered under: its exact name and
// password, and the present accounts of the users files.
func (a *accounts) refusalKey(name, password string) (key loginSum) {
	mac := hmac.New(sha256.New, loginKey)
	for _, d := range a.directories {
		if static := d.static(); static != nil {
			_ = binary.Write(mac, binary.BigEndian, static.now().generation)
		}
	}
	writeText(mac, "refused login")
	writeText(mac, name)
	writeText(mac, password)
	mac.Sum(key[:0])
	return key
}

// authenticate checks a login at each directory until one knows the account. An
// access token of our own is not shown to any directory, whatever user name it comes
// with.
func (a *accounts) authenticate(ctx context.Context, login Login) (caller, error) {
	if _, isToken := accesstoken.Parse(login.Password); isToken {
		token, err := a.tokens.store.Verify(ctx, login.Password)
		return a.byToken(ctx, token, err)
	}
	key := a.refusalKey(login.Name, login.Password)
	if known, ok := a.refused.get(key); ok {
		return caller{directory: known.directory}, known.err
	}
	lasting := true
	at, who, err := a.first(func(d Directory) (Account, error) {
		account, err := d.Authenticate(ctx, login)
		lasting = lasting && !errors.Is(err, ErrThisRequest)
		return account, err
	})
	if !isRefusal(err) {
		return who, err
	}
	if trouble := a.feign(ctx, login, at); trouble != nil {
		return who, &hiddenRefusal{err, trouble}
	}
	if lasting && !errors.Is(err, ErrBlocked) {
		a.refused.add(key, who.directory, err)
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
func (a *accounts) feign(ctx context.Context, login Login, at int) error {
	if at == len(a.directories) || a.directories[at].static() == nil {
		if decoy := decoyFor(login.Name, a.directories); decoy != nil {
			if err := decoy.feign(ctx, login); err != nil {
				return err
			}
		}
	}
	for i := at + 1; i < len(a.directories); i++ {
		d := a.directories[i]
		if costly, ok := d.Directory.(CostlyDirectory); ok {
			if err := costly.Feign(ctx, login); err != nil {
				return fmt.Errorf("directory %s: %w", d.name, err)
			}
		}
	}
	return nil
}

// asNobody returns the login with a random name and password, which no account has.
func (l Login) asNobody() Login {
	l.Name, l.Password = "nobody-"+rand.Text(), rand.Text()
	return l
}

// static is the directory if it is a static one, else nil.
func (d namedDirectory) static() *StaticDirectory {
	static, _ := d.Directory.(*StaticDirectory)
	return static
}

var decoySeed = maphash.MakeSeed()

// decoyFor is the account of the static directories whose hash an unknown name is
// compared with, nil if there is none. It is one of all, always the same for the
// same name. So where some hashes take longer than others, names that do not exist
// differ just as those that do, and time tells nothing about any of them.
func decoyFor(name string, directories []namedDirectory) *StaticUser {
	var lists [][]*StaticUser
	count := 0
	for _, d := range directories {
		if static := d.static(); static != nil {
			list := static.accounts.Load().list
			lists, count = append(lists, list), count+len(list)
		}
	}
	if count == 0 {
		return nil
	}
	at := int(maphash.String(decoySeed, name) % uint64(count))
	for _, list := range lists {
		if at < len(list) {
			return list[at]
		}
		at -= len(list)
	}
	return nil // not reached
}
