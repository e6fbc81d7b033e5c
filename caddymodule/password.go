package caddymodule

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
)

// A CI logs in with the same password all day and a hash takes up to a second
// of a core, so what matched is remembered for the life of the process, as a
// keyed digest of hash and password; equal logins at the same time are one,
// and hashing never takes all cores from the pulls.
var (
	loginKey     = func() []byte { key := make([]byte, 32); _, _ = rand.Read(key); return key }()
	loginMatches = func() *lru.Cache[string, struct{}] {
		cache, err := lru.New[string, struct{}](4096)
		if err != nil {
			panic(err) // the size is a positive constant
		}
		return cache
	}()
	loginFlights singleflight.Group

	// defaultQueue is the queue of this process.
	defaultQueue = newHashQueue(max(1, runtime.GOMAXPROCS(0)/2), maxWaiting, maxWaiting)
)

const (
	// bcryptLen is how much of a password bcrypt reads. More is refused: cut,
	// it would let in whoever knows the beginning.
	bcryptLen = 72

	// maxWaiting is how many strangers may wait for their hash, and how many
	// of the others.
	maxWaiting = 256

	// hashPatience is how long one waits for a core.
	hashPatience = 10 * time.Second
)

// errBusy says that so many passwords are being checked that this one would
// wait too long. Nobody has been told right or wrong.
var errBusy = errors.New("too many passwords are being checked")

// matches compares a password with the hash.
func (u *StaticUser) matches(ctx context.Context, login Login) (bool, error) {
	return hashOnce(ctx, login, u.Hash, func() (bool, error) { return u.compare(login.Password) })
}

// hashOnce checks a password against something, unless it is known to match
// that; equal logins at the same time share one turn. It waits its turn no longer
// than its context, and not for long: an error that is errBusy ends that.
func hashOnce(ctx context.Context, login Login, against string, compare func() (bool, error)) (bool, error) {
	key := loginDigest(against, login.Password)
	if _, ok := loginMatches.Get(key); ok {
		return true, nil
	}
	return hashInTurn(ctx, login, key, func() (bool, error) {
		ok, err := compare()
		if ok && err == nil {
			loginMatches.Add(key, struct{}{})
		}
		return ok && err == nil, err
	})
}

// feign makes the login of an unknown name wait for the turn in the queue that it would
// take if this account had the name. As with a wrong password, no result is remembered
// beforehand, and only an equal login shares the turn: otherwise an unknown name would
// be refused sooner than others.
func (u *StaticUser) feign(ctx context.Context, login Login) error {
	key := loginDigest("nobody", login.Name, u.Hash, login.Password)
	_, err := hashInTurn(ctx, login, key, func() (bool, error) { return u.compare(login.Password) })
	return err
}

// loginDigest is a keyed digest of texts.
func loginDigest(texts ...string) string {
	mac := hmac.New(sha256.New, loginKey)
	for _, text := range texts {
		_ = binary.Write(mac, binary.BigEndian, uint64(len(text)))
		mac.Write([]byte(text))
	}
	return string(mac.Sum(nil))
}

// hashInTurn compares when it is its turn, which those with the same key share.
func hashInTurn(ctx context.Context, login Login, key string, compare func() (bool, error)) (bool, error) {
	flight := loginFlights.DoChan(key, func() (ok any, err error) {
		leave, err := defaultQueue.enter(ctx, login.Friendly)
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

// compare takes its time also for a password that is too long to be right.
func (u *StaticUser) compare(password string) (bool, error) {
	tooLong := u.maxLen > 0 && len(password) > u.maxLen
	if tooLong {
		password = password[:u.maxLen]
	}
	ok, err := u.comparer.Compare([]byte(u.Hash), []byte(password))
	return ok && !tooLong, err
}

// hashQueue bounds how many passwords are hashed at once and how many wait for
// it. Those go first who come from where somebody has logged in before, so that
// a storm of strangers does not keep them out.
type hashQueue struct {
	slots              chan struct{} // holds one for each hash under way
	gate               chan struct{} // holds one for the stranger who is next
	strangers, friends waiting
}

type waiting struct {
	n    atomic.Int32
	most int32
}

// newHashQueue returns a queue with so many turns at a time, and so many
// places for strangers and for friends to wait.
func newHashQueue(slots, strangers, friends int) *hashQueue {
	q := &hashQueue{slots: make(chan struct{}, slots), gate: make(chan struct{}, 1)}
	q.strangers.most, q.friends.most = int32(strangers), int32(friends)
	return q
}

// waiting returns the number of logins that wait for a turn.
func (q *hashQueue) waiting() int { return int(q.strangers.n.Load() + q.friends.n.Load()) }

// enter waits for a turn, which lasts until leave is called. An error that is
// errBusy says that there are too many, or that it has taken too long.
func (q *hashQueue) enter(ctx context.Context, friendly bool) (leave func(), err error) {
	kind := &q.strangers
	if friendly {
		kind = &q.friends
	}
	defer kind.n.Add(-1)
	if kind.n.Add(1) > kind.most {
		return nil, errBusy
	}
	ctx, cancel := context.WithTimeoutCause(ctx, hashPatience, errBusy)
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
