package tokenissuer

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/flight"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/internal/record"
)

const (
	// publishLead is how long a new key is published before it signs, if an
	// older key can sign in the meantime. It is several times refreshInterval,
	// so that all nodes that mint tokens have listed the key by then. If keys
	// are rotated more often than every 20 minutes, the lead is a quarter of the
	// rotation, and keys are listed at least once per lead.
	publishLead = 5 * time.Minute
	// refreshInterval is how often Mint lists the storage, to learn the keys of
	// other nodes and which keys were deleted.
	refreshInterval = time.Minute
	// retryInterval is how long Mint waits after a failure of the storage
	// before it accesses it again, if it has a key to sign with.
	retryInterval = 10 * time.Second
	// maintenanceLimit is the longest duration of a maintenance: a listing, the
	// creation of a key, and the deletion of others.
	maintenanceLimit = 3 * record.Timeout
	// Anyone can cause listings with tokens that name an unknown key. They are
	// limited to lookupBurst at once and one per lookupInterval in the long run.
	// The burst is for a new cluster, in which each node may just have created
	// its first key.
	lookupInterval = time.Second
	lookupBurst    = 5
)

// Keys of the calls that keyRing.calls shares.
const (
	callList     = "list"
	callLookUp   = "look up"
	callMaintain = "maintain"
)

// keyRing holds the signing keys of the nodes that share a storage.
//
// A key is created when a token is minted and there is no key, or the newest is
// older than the rotation. If an older key can sign, the new key is only
// published for publishLead, in which every node lists it. Then all nodes sign
// with it. It verifies tokens until the last one that it may have signed has
// expired: see schedule.end. An hour after that, its file is deleted. Nodes that
// rotate at the same time create one key each. All of them verify tokens, and
// all nodes choose the same one to sign with.
//
// If the file of a key is deleted, a node forgets the key and all tokens that it
// signed with its next listing. That is at most refreshInterval later where
// tokens are minted.
type keyRing struct {
	folder   record.Folder
	schedule schedule
	now      func() time.Time
	hooks    Hooks

	keys    atomic.Pointer[keySet]
	calls   singleflight.Group
	lookups *rate.Limiter

	mu              sync.Mutex // guards the fields below and changes of keys
	listed          time.Time  // start of the last successful listing
	listErr         error      // result of the last listing
	nextMaintenance time.Time
	bad             map[string]bool // files reported to hooks.BadKey
}

func newKeyRing(c Config) *keyRing {
	if c.Hooks.BadKey == nil {
		c.Hooks.BadKey = func(string, error) {}
	}
	if c.Hooks.StorageError == nil {
		c.Hooks.StorageError = func(error) {}
	}
	if c.Hooks.KeyCreated == nil {
		c.Hooks.KeyCreated = func(string) {}
	}
	r := &keyRing{
		folder:   record.NewFolder(c.Storage, cmp.Or(c.Prefix, defaultPrefix)),
		schedule: newSchedule(c.Rotate, c.TokenLifetime),
		now:      c.Now,
		hooks:    c.Hooks,
		lookups:  rate.NewLimiter(rate.Every(lookupInterval), lookupBurst),
		bad:      make(map[string]bool),
	}
	r.keys.Store(newKeySet(nil))
	return r
}

// signer returns the key that signs a token which expires at exp.
func (r *keyRing) signer(ctx context.Context, exp time.Time) (*key, error) {
	if k := r.known(exp); k != nil && !r.maintenanceDue() {
		return k, nil
	}
	// A run that was started for a token which expires earlier may not create
	// the key that is missing for this one, so try again.
	for range 3 {
		_, err := flight.Do(ctx, &r.calls, callMaintain, func(ctx context.Context) (any, error) {
			return nil, r.maintain(ctx, exp)
		})
		if k := r.known(exp); k != nil {
			return k, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrKeysUnavailable, err)
		}
	}
	return nil, fmt.Errorf("%w: none is valid for as long as the token", ErrKeysUnavailable)
}

// known returns the known key that signs a token which expires at exp, or nil.
func (r *keyRing) known(exp time.Time) *key {
	return r.keys.Load().signer(r.schedule, r.now(), exp)
}

// maintenanceDue reports whether the caller is to maintain the keys now. It
// returns true to one caller, and false to others until that has finished and
// the next maintenance is due.
func (r *keyRing) maintenanceDue() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	// The maintenance is never planned further ahead than refreshInterval. If
	// it is, the clock was set back.
	if now.Before(r.nextMaintenance) && r.nextMaintenance.Sub(now) <= refreshInterval {
		return false
	}
	r.nextMaintenance = now.Add(maintenanceLimit)
	return true
}

// maintain maintains the keys and plans the next maintenance.
func (r *keyRing) maintain(ctx context.Context, exp time.Time) error {
	started := r.now()
	err := r.maintainNow(ctx, exp)
	next := r.now().Add(r.schedule.refresh)
	if err != nil {
		next = started.Add(min(retryInterval, r.schedule.refresh))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nextMaintenance = next
	return err
}

// maintainNow lists the storage, creates a key if the rotation is due or no key
// can sign a token that expires at exp, and deletes expired keys.
func (r *keyRing) maintainNow(ctx context.Context, exp time.Time) error {
	if _, err := r.refresh(ctx); err != nil {
		return err
	}
	if r.known(exp) == nil || r.keys.Load().rotationDue(r.schedule, r.now()) {
		if err := r.createKey(ctx); err != nil {
			return err
		}
	}
	return r.deleteExpired(ctx)
}

// createKey creates a key and stores it before it signs anything, because other
// nodes cannot verify tokens of a key that is not stored.
func (r *keyRing) createKey(ctx context.Context) error {
	now := r.now()
	k, err := newKey(now, r.schedule.end(now))
	if err != nil {
		return err
	}
	content, err := k.encode()
	if err != nil {
		return fmt.Errorf("encoding a signing key: %w", err)
	}
	ctx, cancel := record.Detach(ctx)
	defer cancel()
	if err := r.folder.Store(ctx, k.name(), content); err != nil {
		err = fmt.Errorf("storing a new signing key: %w", err)
		r.hooks.StorageError(err)
		return err
	}
	r.change([]*key{k}, nil)
	r.hooks.KeyCreated(k.kid)
	return nil
}

func (r *keyRing) deleteExpired(ctx context.Context) error {
	ctx, cancel := record.Detach(ctx)
	defer cancel()
	for _, k := range r.keys.Load().expired(r.now()) {
		if err := r.folder.Delete(ctx, k.name()); err != nil {
			err = fmt.Errorf("deleting an expired signing key: %w", err)
			r.hooks.StorageError(err)
			return err
		}
		r.change(nil, []*key{k})
	}
	return nil
}

// change adds and removes known keys.
func (r *keyRing) change(add, remove []*key) {
	if len(add) == 0 && len(remove) == 0 {
		return
	}
	r.mu.Lock()
	r.keys.Store(r.keys.Load().with(add, remove))
	r.mu.Unlock()
	for _, k := range remove {
		k.removed.Store(true)
	}
}

// jwks implements [Issuer.JWKS].
func (r *keyRing) jwks(ctx context.Context) ([]byte, error) {
	age, err := r.lastListing()
	if err != nil || age < 0 || age >= r.schedule.refresh {
		_, err = r.lookUp(ctx)
	}
	set := struct {
		Keys []keyFile `json:"keys"`
	}{Keys: []keyFile{}}
	now := r.now()
	for _, k := range r.keys.Load().sorted {
		if k.usable(now) {
			set.Keys = append(set.Keys, k.jwk())
		}
	}
	if err != nil && len(set.Keys) == 0 {
		return nil, fmt.Errorf("%w: %w", ErrKeysUnavailable, err)
	}
	return json.Marshal(set)
}
