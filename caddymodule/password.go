package caddymodule

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
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
	loginFlights hashFlights
	hashing      = newHashQueue(max(1, runtime.GOMAXPROCS(0)/2))
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
// that. It waits its turn no longer than its context, and not for long: an error
// that is errBusy ends that.
func hashOnce(ctx context.Context, login Login, against string, compare func() (bool, error)) (bool, error) {
	mac := hmac.New(sha256.New, loginKey)
	writeText(mac, against)
	writeText(mac, login.Password)
	key := string(mac.Sum(nil))
	if _, ok := loginMatches.Get(key); ok {
		return true, nil
	}
	return loginFlights.do(ctx, key, func(ctx context.Context) (bool, error) {
		leave, err := hashing.enter(ctx, login.friendly)
		if err != nil {
			return false, err
		}
		defer leave()
		ok, err := compare()
		if ok && err == nil {
			loginMatches.Add(key, struct{}{})
		}
		return ok && err == nil, err
	})
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
	strangers, friends atomic.Int32  // how many wait
}

func newHashQueue(slots int) *hashQueue {
	return &hashQueue{slots: make(chan struct{}, slots), gate: make(chan struct{}, 1)}
}

// enter waits for a turn, which lasts until leave is called. An error that is
// errBusy says that there are too many, or that it has taken too long.
func (q *hashQueue) enter(ctx context.Context, friendly bool) (leave func(), err error) {
	waiting := &q.strangers
	if friendly {
		waiting = &q.friends
	}
	defer waiting.Add(-1)
	if waiting.Add(1) > maxWaiting {
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

// hashFlights lets equal logins share one comparison. It goes on as long as
// one of them wants it, whoever came first, and gives up its place in the
// queue when the last one has left. The zero value is ready.
type hashFlights struct {
	mu     sync.Mutex
	flying map[string]*hashFlight
}

type hashFlight struct {
	done   chan struct{}
	ok     bool
	err    error
	want   int // how many wait for it
	cancel context.CancelFunc
}

func (f *hashFlights) do(ctx context.Context, key string, compare func(context.Context) (bool, error)) (bool, error) {
	f.mu.Lock()
	x := f.flying[key]
	if x == nil {
		x = f.start(ctx, key, compare)
	}
	x.want++
	f.mu.Unlock()
	defer f.leave(key, x)
	select {
	case <-x.done:
		return x.ok, x.err
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

// start begins a comparison; f.mu is held.
func (f *hashFlights) start(ctx context.Context, key string, compare func(context.Context) (bool, error)) *hashFlight {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	x := &hashFlight{done: make(chan struct{}), cancel: cancel}
	if f.flying == nil {
		f.flying = make(map[string]*hashFlight)
	}
	f.flying[key] = x
	go func() {
		defer cancel()
		x.ok, x.err = compare(own)
		f.mu.Lock()
		f.forget(key, x)
		f.mu.Unlock()
		close(x.done)
	}()
	return x
}

func (f *hashFlights) leave(key string, x *hashFlight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if x.want--; x.want == 0 {
		f.forget(key, x)
		x.cancel()
	}
}

// forget keeps later logins from joining; f.mu is held.
func (f *hashFlights) forget(key string, x *hashFlight) {
	if f.flying[key] == x {
		delete(f.flying, key)
	}
}
