// Package memo remembers the answers of a service that can be away, such as an
// LDAP server, a REST API, a registry or an issuer of tokens.
//
// A [Cache] returns an answer without asking while it is fresh. Then it asks
// again and waits; if that fails, the old answer still serves until it is stale.
// Refusals are answers too. Callers that need the same answer share one question,
// and a caller that leaves does not end it for the others. After a failure the
// service is left alone for a while. The number of answers is bounded, and if need
// be their weight.
//
// A caller that asks by other means, such as in a queue of its own, uses
// [Cache.Peek] and [Cache.Set].
//
// It is built on golang-lru and singleflight. A cache with loading and refresh
// such as otter v2 does not fit: after the refresh time it still returns the old
// value, and asks in the background, whereas here an account that has been removed
// must be refused as soon as its answer is no longer fresh. It also remembers no
// refusals, knows no pause for all keys, ends a load with the context of its first
// caller, and has a goroutine with a ticker for each cache, which does not end
// within a testing/synctest bubble.
package memo

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/sync/singleflight"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/flight"
)

// Question asks the service. Its context ends after the timeout of the cache. If it
// panics, all callers that wait for it panic.
type Question[V any] func(context.Context) (V, error)

// Cache remembers answers by key. Its methods may be called concurrently.
type Cache[V any] struct {
	config  Config[V]
	flights singleflight.Group

	mu       sync.Mutex
	values   *simplelru.LRU[string, Answer[V]]
	refusals *simplelru.LRU[string, Answer[V]]
	weight   int
	owned    map[string]int // values by owner
	failure  error          // of the last question that was AllFailed
	paused   time.Time      // the end of the pause after it
}

// New returns an empty cache. It panics if the size is not positive.
func New[V any](config Config[V]) *Cache[V] {
	c := &Cache[V]{config: config, owned: make(map[string]int)}
	var err error
	if c.values, err = simplelru.NewLRU(config.Size, c.removed); err != nil {
		panic(err)
	}
	if c.refusals, err = simplelru.NewLRU[string, Answer[V]](config.Size, nil); err != nil {
		panic(err)
	}
	return c
}

// removed is called after a value was removed.
func (c *Cache[V]) removed(key string, old Answer[V]) {
	c.weight -= c.weigh(old.Value)
	if c.config.Owner == nil {
		return
	}
	owner := c.config.Owner(key)
	if c.owned[owner]--; c.owned[owner] == 0 {
		delete(c.owned, owner)
	}
}

func (c *Cache[V]) weigh(v V) int {
	if c.config.Weigh == nil {
		return 0
	}
	return c.config.Weigh(v)
}

// Get returns the answer for a key: a fresh one, else what ask returns, else one
// that is not stale. If ctx ends first, it returns the cause.
func (c *Cache[V]) Get(ctx context.Context, key string, ask Question[V]) (V, error) {
	return c.get(ctx, key, ask, Answer[V].IsFresh, c.config.Stale)
}

// Newer is Get for an answer that is younger than age: an older one is not used,
// even if asking fails.
func (c *Cache[V]) Newer(ctx context.Context, key string, age time.Duration, ask Question[V]) (V, error) {
	return c.get(ctx, key, ask, func(a Answer[V]) bool { return time.Since(a.At) < age }, age)
}

func (c *Cache[V]) get(ctx context.Context, key string, ask Question[V], fresh func(Answer[V]) bool, stale time.Duration) (V, error) {
	known, ok, paused, failure := c.state(key)
	now := time.Now()
	usable := ok && now.Sub(known.At) < stale
	var none V
	switch {
	case ok && fresh(known), usable && now.Before(paused):
		return known.Value, known.Err
	case now.Before(paused) && failure != nil:
		return none, fmt.Errorf("not asked again yet: %w", failure)
	}
	asked := c.ask(ctx, key, ask, fresh)
	if usable && now.Before(paused.Add(c.config.Unwaited)) {
		return known.Value, known.Err
	}
	select {
	case result := <-asked:
		answer, err := flight.Value[Answer[V]](result)
		if err == nil {
			return answer.Value, answer.Err
		}
		if known, ok := c.Peek(key); ok && time.Since(known.At) < stale {
			return known.Value, known.Err
		}
		return none, err
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
}

// state returns the answer for a key and the end of its pause. The failure is set
// if the pause is that of all keys.
func (c *Cache[V]) state(key string) (known Answer[V], ok bool, paused time.Time, failure error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known, ok = c.peek(key)
	if c.paused.After(known.paused) {
		return known, ok, c.paused, c.failure
	}
	return known, ok, known.paused, nil
}

// ask starts a question, or joins the one that is under way for the key.
func (c *Cache[V]) ask(ctx context.Context, key string, ask Question[V], fresh func(Answer[V]) bool) <-chan singleflight.Result {
	return flight.Start(ctx, &c.flights, key, func(ctx context.Context) (Answer[V], error) {
		// The caller may have looked just before another question ended.
		if known, ok := c.Peek(key); ok && fresh(known) {
			return known, nil
		}
		ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
		defer cancel()
		at := time.Now() // a change during the question may be missed
		value, err := ask(ctx)
		a := Answer[V]{Value: value, Err: err, At: at, fresh: c.config.Fresh}
		verdict, pause := Failed, time.Duration(0)
		if err != nil && c.config.Judge != nil {
			verdict, pause = c.config.Judge(err)
		}
		if err != nil && verdict != Refused {
			c.failed(key, err, verdict, pause)
			return Answer[V]{}, err
		}
		if err != nil {
			a = Answer[V]{Err: err, At: at, fresh: pause}
		}
		c.learn(key, a)
		return a, nil
	})
}

// failed remembers a failure. Without a pause there is nothing to remember.
func (c *Cache[V]) failed(key string, err error, verdict Verdict, pause time.Duration) {
	if pause <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	until := time.Now().Add(pause)
	if verdict == AllFailed {
		c.failure, c.paused = err, until
		return
	}
	for _, answers := range []*simplelru.LRU[string, Answer[V]]{c.values, c.refusals} {
		if a, ok := answers.Peek(key); ok {
			a.paused = until
			c.add(answers, key, a)
		}
	}
}

func (c *Cache[V]) learn(key string, a Answer[V]) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failure, c.paused = nil, time.Time{}
	if a.Err == nil {
		c.refusals.Remove(key)
		c.add(c.values, key, a)
		return
	}
	c.values.Remove(key)
	c.refusals.Remove(key)
	if a.fresh > 0 {
		c.refusals.Add(key, a)
	}
}

// add replaces an answer. The old one goes first, so that its weight does.
func (c *Cache[V]) add(answers *simplelru.LRU[string, Answer[V]], key string, a Answer[V]) {
	answers.Remove(key)
	if answers == c.values && c.config.Owner != nil {
		c.own(c.config.Owner(key))
	}
	answers.Add(key, a)
	if answers != c.values || c.config.Weigh == nil {
		return
	}
	for c.weight += c.weigh(a.Value); c.weight > c.config.MaxWeight; {
		c.values.RemoveOldest()
	}
}

// own counts a value of an owner that is about to be added, and makes room for it.
func (c *Cache[V]) own(owner string) {
	if c.owned[owner] >= c.config.MaxOwned {
		for _, key := range c.values.Keys() { // the least recently used one is the first
			if c.config.Owner(key) == owner {
				c.values.Remove(key)
				break
			}
		}
	}
	c.owned[owner]++
}

// Peek returns the remembered answer for a key, whatever its age, without asking.
// It counts as a use of the answer.
func (c *Cache[V]) Peek(key string) (Answer[V], bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.peek(key)
}

func (c *Cache[V]) peek(key string) (Answer[V], bool) {
	if a, ok := c.values.Get(key); ok {
		return a, true
	}
	return c.refusals.Get(key)
}

// Set remembers a value that was learned now without a question.
func (c *Cache[V]) Set(key string, value V) {
	c.learn(key, Answer[V]{Value: value, At: time.Now(), fresh: c.config.Fresh})
}

// Forget forgets the answer for a key.
func (c *Cache[V]) Forget(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.values.Remove(key)
	c.refusals.Remove(key)
}

// ForgetFunc forgets the answers for the keys that match.
func (c *Cache[V]) ForgetFunc(match func(key string) bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, answers := range []*simplelru.LRU[string, Answer[V]]{c.values, c.refusals} {
		for _, key := range answers.Keys() {
			if match(key) {
				answers.Remove(key)
			}
		}
	}
}
