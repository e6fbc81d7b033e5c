package ldap

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/internal/pool"
	"github.com/dependencyproxy/caddy-dependency-proxy/internal/memo"
)

// unwaited is how long after a failure known accounts do not wait for the server,
// which may not respond again.
const unwaited = 10 * time.Second

// memories are the memories in use, by the configuration of the directory. They outlive
// a configuration, so that a reload while no server can be reached does not lock accounts out.
var memories = pool.New[*memory](nil)

// memory holds the answers that an LDAP directory remembers.
type memory struct {
	accounts *memo.Cache[directory.Account] // by name
	logins   *memo.Cache[directory.Account] // by loginKey; refusals are not remembered
	key      [32]byte
	binds    atomic.Int64 // the usual duration of a bind, in nanoseconds
}

func (l *Directory) newMemory() (*memory, error) {
	m := new(memory)
	if _, err := rand.Read(m.key[:]); err != nil {
		return nil, err
	}
	config := memo.Config[directory.Account]{
		Size: 10_000, Fresh: time.Duration(l.CacheFor), Stale: time.Duration(l.Grace),
		Timeout:  4 * time.Duration(l.Timeout), // to connect, and for a few questions
		Unwaited: unwaited,
	}
	config.Judge = judge(config.Fresh)
	m.accounts = memo.New(config)
	config.Size, config.Judge = 4096, judge(0)
	m.logins = memo.New(config)
	return m, nil
}

// judge returns a function that tells refusals, which are remembered for a time,
// from failures. After a failure the same question is not asked again for retryAfter.
func judge(remember time.Duration) func(error) (memo.Verdict, time.Duration) {
	return func(err error) (memo.Verdict, time.Duration) {
		if directory.IsRefusal(err) {
			return memo.Refused, remember
		}
		return memo.Failed, retryAfter
	}
}

// loginKey returns the key of a login, which does not reveal the password.
func (m *memory) loginKey(name, password string) string {
	mac := hmac.New(sha256.New, m.key[:])
	_, _ = fmt.Fprintf(mac, "%s\x00%s", name, password)
	return string(mac.Sum(nil))
}

// bindTook records the duration of a bind.
func (m *memory) bindTook(d time.Duration) {
	before := m.binds.Load()
	if before == 0 {
		before = int64(d)
	}
	m.binds.Store(before + (int64(d)-before)/8)
}

// pause waits for the usual duration of a bind.
func (m *memory) pause(ctx context.Context) {
	timer := time.NewTimer(time.Duration(m.binds.Load()))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
