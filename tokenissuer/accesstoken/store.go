package accesstoken

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"
)

const (
	// DefaultPrefix is where tokens are stored unless configured otherwise.
	DefaultPrefix = "dependency_proxy/tokens"
	// CacheFor is how long what was read of a token is believed, and so how
	// long another node's revocation takes.
	CacheFor = 30 * time.Second
	// AbsentFor is the same for a token that does not exist.
	AbsentFor = 5 * time.Second

	// cacheSize is how many tokens are remembered, and as many absent ones.
	cacheSize = 4096
	// storageTimeout bounds one look into storage, or one change of it.
	storageTimeout = 5 * time.Second
	// useTimeout bounds what the record of a use may delay it by.
	useTimeout = time.Second
	// Anyone can send a secret that nobody has made; so many of them per
	// second, and at once, are looked for one by one.
	lookupRate  = 50
	lookupBurst = 100
	// listers is how many files are read at a time for a list.
	listers = 8
	// keepDead is how long an expired token is still listed.
	keepDead = 30 * 24 * time.Hour
)

// Storage is the part of certmagic.Storage that tokens need; any Caddy storage
// is one. Keys are slash-separated paths. An absent key, and the listing of an
// absent path, is fs.ErrNotExist. Calls may be concurrent and should respect
// their context, which always has a deadline.
type Storage interface {
	Store(ctx context.Context, key string, value []byte) error
	Load(ctx context.Context, key string) ([]byte, error)
	List(ctx context.Context, path string, recursive bool) ([]string, error)
	Delete(ctx context.Context, key string) error
}

// Hooks tell what happens behind a call that succeeds nevertheless. Each is
// optional, must be quick, and may be called from several goroutines at once.
// No argument contains a secret.
type Hooks struct {
	// BadFile reports a token that cannot be used because its file is damaged.
	BadFile func(id string, err error)
	// StorageError reports a failure to record a use or to tidy up.
	StorageError func(err error)
}

// Config are the settings of a [Store]. Only Storage is required.
type Config struct {
	Storage Storage
	// Prefix is the storage path of the token files; empty means
	// [DefaultPrefix]. Nothing else belongs there.
	Prefix string
	// Now is the clock; nil means time.Now.
	Now   func() time.Time
	Hooks Hooks
}

// Store keeps tokens. Its methods may be called concurrently.
type Store struct {
	storage Storage
	prefix  string
	now     func() time.Time
	hooks   Hooks

	known   *lru.Cache[string, *entry]
	absent  *lru.Cache[string, time.Time] // when it was looked for
	flights singleflight.Group
	lookups *rate.Limiter

	listings singleflight.Group

	mu      sync.Mutex
	ended   map[string]Token // revoked here, until they expire
	tidied  time.Time
	ids     map[string]bool // of all tokens as of idsRead, nil if not known
	idsRead time.Time
}

// New makes a store. It touches no storage.
func New(c Config) *Store {
	s := &Store{
		storage: c.Storage,
		prefix:  path.Clean(c.Prefix),
		now:     c.Now,
		hooks:   c.Hooks,
		known:   newCache[*entry](),
		absent:  newCache[time.Time](),
		lookups: rate.NewLimiter(lookupRate, lookupBurst),
		ended:   make(map[string]Token),
	}
	if c.Prefix == "" {
		s.prefix = DefaultPrefix
	}
	if s.now == nil {
		s.now = time.Now
	}
	return s
}

func newCache[V any]() *lru.Cache[string, V] {
	cache, err := lru.New[string, V](cacheSize)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	return cache
}

// Create makes a token that lives for so long, and returns it with its secret,
// which is nowhere else. ID, Created and Expires are filled in. A token that
// contradicts itself is an error; [ErrUnavailable] means that it could not be
// stored.
func (s *Store) Create(ctx context.Context, t Token, lifetime time.Duration) (Token, string, error) {
	secret := newSecret()
	sum := sha256.Sum256([]byte(secret))
	t.ID = idOf(sum)
	t.Created = s.now().UTC().Truncate(time.Second)
	t.Expires = t.Created.Add(lifetime.Truncate(time.Second))
	t.Revoked, t.RevokedBy, t.LastUsed = time.Time{}, "", time.Time{}
	if err := t.check(); err != nil {
		return Token{}, "", fmt.Errorf("making an access token: %w", err)
	}
	content, err := encodeFile(t, sum)
	if err != nil {
		return Token{}, "", fmt.Errorf("encoding an access token: %w", err)
	}
	work, cancel := detached(ctx)
	defer cancel()
	if err := s.storage.Store(work, s.file(t.ID), content); err != nil {
		return Token{}, "", unavailable("storing an access token", err)
	}
	s.mu.Lock()
	s.ids = nil // which lacks it
	s.mu.Unlock()
	s.tidy(ctx)
	return t, secret, nil
}

// Revoke ends a token: here at once, elsewhere within [CacheFor]. It is not an
// error to revoke it twice; by is for the record only.
func (s *Store) Revoke(ctx context.Context, id, by string) (Token, error) {
	if !IsID(id) {
		return Token{}, errAbsent
	}
	work, cancel := detached(ctx)
	defer cancel()
	t, _, err := s.read(work, id)
	if err != nil || !t.Revoked.IsZero() {
		return t, err
	}
	t.Revoked, t.RevokedBy = s.now().UTC().Truncate(time.Second), by
	content, err := json.Marshal(tombstone{t.Revoked, t.RevokedBy})
	if err != nil {
		return Token{}, fmt.Errorf("encoding a revocation: %w", err)
	}
	err = s.storage.Store(work, s.grave(id), content)
	s.known.Remove(id) // it may have been stored all the same
	if err != nil {
		return Token{}, unavailable("revoking an access token", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// What this node knows holds, however late its storage shows it.
	s.ended[id] = t
	for id, old := range s.ended {
		if s.now().After(old.Expires) {
			delete(s.ended, id)
		}
	}
	return t, nil
}

// endedHere is a token that this node has revoked.
func (s *Store) endedHere(id string) (Token, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.ended[id]
	return t, ok
}

// The three files of a token: what it is, that it is revoked, when it was used.
func (s *Store) file(id string) string  { return s.prefix + "/" + id + ".json" }
func (s *Store) grave(id string) string { return s.prefix + "/" + id + ".revoked" }
func (s *Store) used(id string) string  { return s.prefix + "/" + id + ".used" }

// detached is a context for storage on behalf of everyone who waits: the client
// that happened to come first may leave.
func detached(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), storageTimeout)
}

func unavailable(what string, err error) error {
	return fmt.Errorf("%w: %s: %w", ErrUnavailable, what, err)
}

func (s *Store) trouble(what string, err error) {
	if err != nil && !errors.Is(err, fs.ErrNotExist) && s.hooks.StorageError != nil {
		s.hooks.StorageError(fmt.Errorf("%s: %w", what, err))
	}
}
