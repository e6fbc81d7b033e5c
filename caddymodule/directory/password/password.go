package password

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/dependencyproxy/caddy-dependency-proxy/caddymodule/directory"
)

// A CI logs in with the same password all day and a hash takes up to a second
// of a core, so what matched is remembered for the life of the process, as a
// keyed digest of hash and password; equal logins at the same time are one,
// and hashing never takes all cores from the pulls.
var (
	digestKey = func() []byte { key := make([]byte, 32); _, _ = rand.Read(key); return key }()
	matches   = func() *lru.Cache[string, struct{}] {
		cache, err := lru.New[string, struct{}](4096)
		if err != nil {
			panic(err) // the size is a positive constant
		}
		return cache
	}()
	flights singleflight.Group

	// DefaultQueue is the queue of this process.
	DefaultQueue = NewQueue(max(1, runtime.GOMAXPROCS(0)/2), MaxWaiting, MaxWaiting)
)

const (
	// BcryptLen is how much of a password bcrypt reads. More is refused: cut,
	// it would let in whoever knows the beginning.
	BcryptLen = 72

	// MaxWaiting is how many strangers may wait for their hash, and how many
	// of the others.
	MaxWaiting = 256

	// Patience is how long one waits for a core.
	Patience = 10 * time.Second
)

// ErrBusy says that so many passwords are being checked that this one would
// wait too long. Nobody has been told right or wrong.
var ErrBusy = errors.New("too many passwords are being checked")

// Once checks a password against something, unless it is known to match
// that; equal logins at the same time share one turn. It waits its turn no longer
// than its context, and not for long: an error that is ErrBusy ends that.
func Once(ctx context.Context, login directory.Login, against string, compare func() (bool, error)) (bool, error) {
	key := Digest(against, login.Password)
	if _, ok := matches.Get(key); ok {
		return true, nil
	}
	return InTurn(ctx, login, key, func() (bool, error) {
		ok, err := compare()
		if ok && err == nil {
			matches.Add(key, struct{}{})
		}
		return ok && err == nil, err
	})
}

// Digest is a keyed digest of texts.
func Digest(texts ...string) string {
	mac := hmac.New(sha256.New, digestKey)
	for _, text := range texts {
		_ = binary.Write(mac, binary.BigEndian, uint64(len(text)))
		mac.Write([]byte(text))
	}
	return string(mac.Sum(nil))
}

// InTurn compares when it is its turn, which those with the same key share.
func InTurn(ctx context.Context, login directory.Login, key string, compare func() (bool, error)) (bool, error) {
	flight := flights.DoChan(key, func() (ok any, err error) {
		leave, err := DefaultQueue.Enter(ctx, login.Friendly)
		if err != nil {
			return false, err
		}
		defer leave()
		// A guest's panic here would end the process, not the login alone.
		defer func() {
			if cause := recover(); cause != nil {
				ok, err = false, fmt.Errorf("comparing a password: panic: %v", cause)
			}
		}()
		return compare()
	})
	select {
	case result := <-flight:
		return result.Val.(bool), result.Err
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

// Queue bounds how many passwords are hashed at once and how many wait for
// it. Those go first who come from where somebody has logged in before, so that
// a storm of strangers does not keep them out.
type Queue struct {
	slots              chan struct{} // holds one for each hash under way
	gate               chan struct{} // holds one for the stranger who is next
	strangers, friends waiting
}

type waiting struct {
	n    atomic.Int32
	most int32
}

// NewQueue returns a queue with so many turns at a time, and so many
// places for strangers and for friends to wait.
func NewQueue(slots, strangers, friends int) *Queue {
	q := &Queue{slots: make(chan struct{}, slots), gate: make(chan struct{}, 1)}
	q.strangers.most, q.friends.most = int32(strangers), int32(friends)
	return q
}

// Waiting returns the number of logins that wait for a turn.
func (q *Queue) Waiting() int { return int(q.strangers.n.Load() + q.friends.n.Load()) }

// Enter waits for a turn, which lasts until leave is called. An error that is
// ErrBusy says that there are too many, or that it has taken too long.
func (q *Queue) Enter(ctx context.Context, friendly bool) (leave func(), err error) {
	kind := &q.strangers
	if friendly {
		kind = &q.friends
	}
	defer kind.n.Add(-1)
	if kind.n.Add(1) > kind.most {
		return nil, ErrBusy
	}
	ctx, cancel := context.WithTimeoutCause(ctx, Patience, ErrBusy)
	defer cancel()
	if !friendly {
		select {
		case q.gate <- struct{}{}:
			defer func() { <-q.gate }()
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	select {
	case q.slots <- struct{}{}:
		return func() { <-q.slots }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
