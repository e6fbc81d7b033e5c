package ldap

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/pool"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/memo"
)

// memories outlive a configuration: a reload while no server can be reached
// must not lock everybody out. They are kept by what the directory is
// configured to ask.
var memories = pool.New[*memory](nil)

// memory is what an LDAP directory has learnt.
type memory struct {
	accounts answers // by name
	logins   answers // by loginKey, none but good ones
	key      [32]byte
	binds    atomic.Int64 // how long a bind takes about, in nanoseconds
}

func newMemory() (*memory, error) {
	m := new(memory)
	if _, err := rand.Read(m.key[:]); err != nil {
		return nil, err
	}
	var err error
	if m.accounts.cache, err = lru.New[string, knownAnswer](10_000); err != nil {
		return nil, err
	}
	m.accounts.refusals = true
	m.logins.cache, err = lru.New[string, knownAnswer](4096)
	return m, err
}

// digestKey is what a login is remembered by, which does not tell its password.
func (m *memory) loginKey(name, password string) string {
	mac := hmac.New(sha256.New, m.key[:])
	_, _ = fmt.Fprintf(mac, "%s\x00%s", name, password)
	return string(mac.Sum(nil))
}

// bindTook learns how long it takes to check a password.
func (m *memory) bindTook(d time.Duration) {
	before := m.binds.Load()
	if before == 0 {
		before = int64(d)
	}
	m.binds.Store(before + (int64(d)-before)/8)
}

// pause takes the time of a bind, for a name that there is nothing to bind as.
func (m *memory) pause(ctx context.Context) {
	timer := time.NewTimer(time.Duration(m.binds.Load()))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// patience says how long an answer is believed without asking again, and how
// old it may get while there is none, and how long to wait for one.
type patience struct{ fresh, grace, limit time.Duration }

const (
	// answersRetry is how soon after a failure it is tried again, with nobody
	// waiting for it.
	answersRetry = time.Second
	// answersAway is how long after a failure no one waits for an answer, if
	// there is a known one.
	answersAway = 10 * time.Second
)

// answers are what a directory elsewhere has said of accounts. Those who ask
// the same at once are given one answer.
type answers struct {
	cache    *lru.Cache[string, knownAnswer]
	flights  singleflight.Group
	refusals bool // are remembered too
}

type knownAnswer struct {
	account directory.Account
	err     error // a refusal
	at      time.Time
	failed  time.Time // when asking failed last
}

// get returns a known answer or that of ask. An error of ask that is no refusal
// means that it cannot answer.
func (a *answers) get(ctx context.Context, key string, p patience, ask func(context.Context) (directory.Account, error)) (directory.Account, error) {
	if known, ok := a.cache.Get(key); ok {
		age, failed := time.Since(known.at), time.Since(known.failed)
		switch {
		case age < p.fresh:
			return known.account, known.err
		case age < p.grace && failed < answersAway:
			if failed > answersRetry {
				a.fly(ctx, key, p, ask)
			}
			return known.account, known.err
		}
	}
	select {
	case result := <-a.fly(ctx, key, p, ask):
		return result.Val.(directory.Account), result.Err
	case <-ctx.Done():
		return directory.Account{}, ctx.Err()
	}
}

// fly asks, whether or not anybody waits until it is done.
func (a *answers) fly(ctx context.Context, key string, p patience, ask func(context.Context) (directory.Account, error)) <-chan singleflight.Result {
	return a.flights.DoChan(key, func() (any, error) {
		ctx, cancel := memo.Background(ctx, p.limit)
		defer cancel()
		account, err := ask(ctx)
		switch {
		case err == nil:
			a.learn(key, account)
		case !directory.IsRefusal(err):
			known, ok := a.cache.Peek(key)
			if !ok || time.Since(known.at) >= p.grace {
				return account, err
			}
			known.failed = time.Now()
			a.cache.Add(key, known)
			return known.account, known.err
		case a.refusals:
			a.cache.Add(key, knownAnswer{err: err, at: time.Now()})
		default:
			a.forget(key)
		}
		return account, err
	})
}

func (a *answers) learn(key string, account directory.Account) {
	a.cache.Add(key, knownAnswer{account: account, at: time.Now()})
}

func (a *answers) forget(key string) { a.cache.Remove(key) }
