package tokenissuer

import (
	"context"
	"encoding/json"
	"fmt"
	"path"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// DefaultPrefix is where keys are stored unless configured otherwise.
	DefaultPrefix = "dependency_proxy/keys"
	// DefaultTokenLifetime is the longest lifetime of a token unless
	// configured otherwise.
	DefaultTokenLifetime = 24 * time.Hour
	// PublishLead is for how long a new key is published before it signs,
	// where an older key can sign in the meantime. It is several times
	// [RefreshInterval], so that every node that mints has listed the key by
	// then. With a rotation more often than every 20 minutes it is a quarter
	// of that, and RefreshInterval at most the same.
	PublishLead = 5 * time.Minute
	// RefreshInterval is after how long a mint lists the storage again, to
	// learn the keys of other nodes and the removal of any.
	RefreshInterval = time.Minute

	// retryInterval is when a mint that has a key to sign with tries storage
	// again after a failure.
	retryInterval = 10 * time.Second
	// storageTimeout bounds one listing, or the making of one key.
	storageTimeout = 5 * time.Second
	// Lookups for unknown kids, which anyone can cause: listBurst at once, and
	// one per listInterval in the long run. The burst is for the first minute
	// of a cluster, when each node may have just made a key of its own.
	listInterval = time.Second
	listBurst    = 5
)

// Storage is the part of certmagic.Storage that keys need; any Caddy storage
// is one. Keys are slash-separated paths. An absent key, and the listing of an
// absent path, is fs.ErrNotExist. Calls may be concurrent and should respect
// their context, which always has a deadline.
type Storage interface {
	Store(ctx context.Context, key string, value []byte) error
	Load(ctx context.Context, key string) ([]byte, error)
	List(ctx context.Context, path string, recursive bool) ([]string, error)
	Delete(ctx context.Context, key string) error
}

// Hooks tell what happens behind a call that succeeds nevertheless, or on
// nobody's behalf. Each is optional, must be quick, and may be called from
// several goroutines at once. No argument contains a secret.
type Hooks struct {
	// BadKey reports a key file that cannot be used and was skipped; once per
	// file, until it is mended or removed.
	BadKey func(name string, err error)
	// StorageError reports each failure of storage, also where a known key
	// made it bearable and nobody got an error. With a storage that is away
	// that is every ten seconds where tokens are minted, and once a second
	// where unknown keys are looked for.
	StorageError func(err error)
	// KeyMade and KeyDeleted report a new key, and a dead one's removal.
	KeyMade    func(kid string)
	KeyDeleted func(kid string)
}

// KeyRingConfig are the settings of a [KeyRing]. Only Storage is required.
type KeyRingConfig struct {
	Storage Storage
	// Prefix is the storage path of the key files; empty means [DefaultPrefix].
	// Nothing else belongs there.
	Prefix string
	// Rotate is the age at which a key gets a successor. 0 means never; a key
	// made under that setting verifies until its file is removed, also when
	// the setting has changed since.
	Rotate time.Duration
	// TokenLifetime is the longest lifetime that a token may have, refresh
	// tokens included; 0 means [DefaultTokenLifetime], and less than
	// [MinLifetime] means that. Longer ones are neither minted nor accepted,
	// so shortening it ends the tokens that are too long.
	TokenLifetime time.Duration
	// Now is the clock; nil means time.Now.
	Now   func() time.Time
	Hooks Hooks
}

// KeyRing holds the signing keys that the nodes on one storage share.
//
// A key lives so: it is made by a mint, because there is none or because the
// newest is older than Rotate. Where an older key can still sign, the new one
// is only published for [PublishLead], in which every node lists it; then all
// nodes sign with it. It verifies until the last token that it may have signed
// is dead, at an age of Rotate + 2*PublishLead + TokenLifetime + 2*[Leeway]; an
// hour later a mint deletes the file. Nodes that rotate at once make a key
// each. That is harmless: all verify, and all nodes choose the same signer.
//
// To end a key early, delete its file: a node forgets it, and all tokens that
// it signed, at its next listing, which is at most [RefreshInterval] away where
// tokens are minted or [KeyRing.Refresh] is called.
//
// While storage is away, known keys go on verifying and signing. Verification
// with a known key never waits for storage. A mint asks storage every
// RefreshInterval, in the goroutine of one caller, for at most five seconds even
// when that caller's context ends; the others meanwhile sign with what is known.
//
// The methods may be called concurrently.
type KeyRing struct {
	storage  Storage
	prefix   string
	schedule schedule
	now      func() time.Time
	hooks    Hooks

	keys    atomic.Pointer[keySet]
	listing flight // one listing at a time
	making  flight // one maker of keys at a time
	lookups limiter

	mu       sync.Mutex // guards what is below, and the replacement of keys
	listed   time.Time  // begin of the last listing that succeeded
	listErr  error      // of the last listing
	nextCare time.Time  // when a mint next looks after the keys
	bad      map[string]bool
}

// NewKeyRing makes a ring. It does not touch the storage: the first token does.
func NewKeyRing(c KeyRingConfig) *KeyRing {
	r := &KeyRing{
		storage:  c.Storage,
		prefix:   path.Clean(c.Prefix),
		schedule: newSchedule(c.Rotate, c.TokenLifetime),
		now:      c.Now,
		hooks:    c.Hooks,
		lookups:  limiter{interval: listInterval, burst: listBurst},
	}
	if c.Prefix == "" {
		r.prefix = DefaultPrefix
	}
	if r.now == nil {
		r.now = time.Now
	}
	r.keys.Store(newKeySet(nil))
	return r
}

// signer is the key for a token that expires at exp.
func (r *KeyRing) signer(ctx context.Context, exp time.Time) (*key, error) {
	if k := r.keys.Load().signer(r.schedule, r.now(), exp); k != nil {
		if !r.careDue() {
			return k, nil
		}
		// A failure is bearable: k is there.
		r.making.try(func() error { return r.care(ctx) })
	}
	// More than one round is for who followed a care that had no reason to
	// make the key that is missing here.
	for range 3 {
		if k := r.keys.Load().signer(r.schedule, r.now(), exp); k != nil {
			return k, nil
		}
		_, err := r.making.do(ctx, nil, func() error { return r.makeFirst(ctx, exp) })
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrKeysUnavailable, err)
		}
	}
	return nil, fmt.Errorf("%w: none that outlives the token", ErrKeysUnavailable)
}

// makeFirst makes the key that is missing, unless another node just did.
func (r *KeyRing) makeFirst(ctx context.Context, exp time.Time) error {
	if err := r.Refresh(ctx); err != nil {
		return err
	}
	if r.keys.Load().signer(r.schedule, r.now(), exp) == nil {
		if err := r.makeKey(ctx); err != nil {
			return err
		}
	}
	r.cared()
	return nil
}

// careDue says whether it is time to look after the keys, to one caller only.
func (r *KeyRing) careDue() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	// Further ahead than is ever planned means that the clock went back.
	if now.Before(r.nextCare) && r.nextCare.Sub(now) <= RefreshInterval {
		return false
	}
	r.nextCare = now.Add(min(retryInterval, r.schedule.refresh))
	return true
}

// care is what keys need from time to time: learn those of other nodes, make
// the next one early enough, delete the dead.
func (r *KeyRing) care(ctx context.Context) error {
	err := r.Refresh(ctx)
	if err == nil && r.keys.Load().rotationDue(r.schedule, r.now()) {
		err = r.makeKey(ctx)
	}
	if err == nil {
		err = r.deleteDead(ctx)
	}
	if err == nil {
		r.cared()
	}
	return err
}

// cared plans the next care.
func (r *KeyRing) cared() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nextCare = r.now().Add(r.schedule.refresh)
}

// makeKey makes a key, stores it and only then knows it: what is not stored,
// no other node can verify.
func (r *KeyRing) makeKey(ctx context.Context) error {
	now := r.now()
	k, err := newKey(now, r.schedule.end(now))
	if err != nil {
		return err
	}
	content, err := k.encode()
	if err != nil {
		return fmt.Errorf("encoding a signing key: %w", err)
	}
	ctx, cancel := detached(ctx)
	defer cancel()
	if err := r.storage.Store(ctx, r.path(k), content); err != nil {
		err = fmt.Errorf("storing a new signing key: %w", err)
		r.hooks.storageError(err)
		return err
	}
	r.replace([]*key{k}, nil)
	r.hooks.keyMade(k.kid)
	return nil
}

func (r *KeyRing) deleteDead(ctx context.Context) error {
	ctx, cancel := detached(ctx)
	defer cancel()
	for _, k := range r.keys.Load().dead(r.now()) {
		if err := r.storage.Delete(ctx, r.path(k)); err != nil {
			err = fmt.Errorf("deleting a dead signing key: %w", err)
			r.hooks.storageError(err)
			return err
		}
		r.replace(nil, []*key{k})
		r.hooks.keyDeleted(k.kid)
	}
	return nil
}

// JWKS is the JSON Web Key Set (RFC 7517 section 5) of all keys whose tokens
// are or may become valid, oldest first. It makes no key: before the first
// token the set is empty. It lists storage at most every [RefreshInterval];
// [ErrKeysUnavailable] is returned only if there is no known key to show.
func (r *KeyRing) JWKS(ctx context.Context) ([]byte, error) {
	err := r.refreshStale(ctx)
	set := struct {
		Keys []keyFile `json:"keys"`
	}{Keys: []keyFile{}}
	now := r.now()
	for _, k := range r.keys.Load().sorted {
		if k.alive(now) {
			set.Keys = append(set.Keys, k.jwk())
		}
	}
	if err != nil && len(set.Keys) == 0 {
		return nil, fmt.Errorf("%w: %w", ErrKeysUnavailable, err)
	}
	return json.Marshal(set)
}

func (r *KeyRing) path(k *key) string { return r.prefix + "/" + k.name() }
