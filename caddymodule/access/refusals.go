package access

import (
	"strconv"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory/password"
)

// refuseFor is how long a wrong login is remembered. Within that time the same
// login is refused without asking a directory, so that a job with an old
// password, or an attacker, cannot lock an account at the server of its
// directory.
const refuseFor = time.Minute

// refusals remembers wrong logins by a keyed digest of name and password. Each
// configuration of a site has its own, so a reload starts with an empty one, and
// no site decides about the logins at another.
type refusals struct {
	cache *lru.Cache[sum, refusedLogin]
}

type refusedLogin struct {
	directory string // the directory that refused it, if one knew the account
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

// refusalKey returns the key that a wrong login is remembered under. It depends
// on the exact name and password, and changes with the accounts of the users
// files.
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
