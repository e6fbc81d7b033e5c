package accesstoken

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/internal/record"
)

const (
	// prefix is the storage path of the tokens. It contains no other files.
	prefix = "dependency_proxy/tokens"
	// cacheFor is how long a token that was read is remembered, and so the
	// longest time until the revocation by another node takes effect.
	cacheFor = 30 * time.Second
	// absentFor is how long the store remembers that a token does not exist.
	absentFor = 5 * time.Second

	// cacheSize is the number of tokens that are remembered, and of absent ones.
	cacheSize = 4096
	// useTimeout limits how long recording the last use delays a request.
	useTimeout = time.Second
	// Anyone can cause lookups with invented secrets. Beyond lookupRate per
	// second and lookupBurst at once, unknown tokens are only looked up if they
	// are in a list of all tokens.
	lookupRate  = 50
	lookupBurst = 100
	// listReaders is the number of files that List reads at a time.
	listReaders = 8
	// keepExpired is how long expired tokens are listed.
	keepExpired = 30 * 24 * time.Hour
)

// Storage is where the tokens are stored. It is a subset of certmagic.Storage, so
// any Caddy storage implements it.
type Storage = record.Storage

// Hooks report what the methods of a [Store] do not return as an error. Each hook
// is optional, must return quickly, and may be called concurrently. No argument
// contains a secret.
type Hooks struct {
	// BadFile reports a token that is rejected because its file is damaged.
	BadFile func(id string, err error)
	// StorageError reports a failure to record the use of a token, to read it
	// for a list, or to delete expired tokens.
	StorageError func(err error)
}

// Config configures a [Store]. Only Storage is required.
type Config struct {
	Storage Storage
	// Now returns the current time; time.Now if nil.
	Now   func() time.Time
	Hooks Hooks
}

// Store creates, verifies and revokes tokens. Its methods may be called
// concurrently.
type Store struct {
	folder record.Folder
	now    func() time.Time
	hooks  Hooks

	known   *lru.Cache[string, *entry]
	absent  *lru.Cache[string, time.Time] // when it was looked up
	calls   singleflight.Group            // by ID, or callList
	lookups *rate.Limiter

	mu      sync.Mutex
	revoked map[string]Token // revoked by this node, until they expire
	tidied  time.Time        // last deletion of expired tokens
	ids     map[string]bool  // of all tokens at idsRead, nil if not known
	idsRead time.Time
}

// New returns a store. It does not access the storage.
func New(c Config) *Store {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Hooks.BadFile == nil {
		c.Hooks.BadFile = func(string, error) {}
	}
	if c.Hooks.StorageError == nil {
		c.Hooks.StorageError = func(error) {}
	}
	return &Store{
		folder:  record.NewFolder(c.Storage, prefix),
		now:     c.Now,
		hooks:   c.Hooks,
		known:   newCache[*entry](),
		absent:  newCache[time.Time](),
		lookups: rate.NewLimiter(lookupRate, lookupBurst),
		revoked: make(map[string]Token),
	}
}

func newCache[V any]() *lru.Cache[string, V] {
	cache, err := lru.New[string, V](cacheSize)
	if err != nil {
		panic(err) // the size is a positive constant
	}
	return cache
}

// Create stores a token with the given lifetime, of one minute to 366 days. It
// returns the token, with ID, Created and Expires filled in, and its secret. The
// error is an [ErrUnavailable] if the token cannot be stored. Any other error
// means that the token is invalid.
func (s *Store) Create(ctx context.Context, t Token, lifetime time.Duration) (created Token, secret string, err error) {
	secret = newSecret()
	sum := sha256.Sum256([]byte(secret))
	t.ID = idOf(sum)
	t.Created = s.now().UTC().Truncate(time.Second)
	t.Expires = t.Created.Add(lifetime.Truncate(time.Second))
	t.Revoked, t.RevokedBy, t.LastUsed = time.Time{}, "", time.Time{}
	if err := t.check(); err != nil {
		return Token{}, "", fmt.Errorf("creating an access token: %w", err)
	}
	content, err := encodeFile(t, sum)
	if err != nil {
		return Token{}, "", fmt.Errorf("encoding an access token: %w", err)
	}
	work, cancel := record.Detach(ctx)
	defer cancel()
	if err := s.folder.Store(work, tokenName(t.ID), content); err != nil {
		return Token{}, "", unavailable("storing an access token", err)
	}
	s.mu.Lock()
	s.ids = nil // outdated
	s.mu.Unlock()
	s.tidy(ctx)
	return t, secret, nil
}

// Revoke ends a token, on this node at once and on others within 30 seconds, and
// returns it. Revoking it again has no effect and is not an error. by names the
// account that revokes it, and is stored for information.
//
// The error is [fs.ErrNotExist] if the token does not exist or allowed returns
// false for it, and an [ErrUnavailable] if the storage fails. In that case the
// token may have been revoked nevertheless.
func (s *Store) Revoke(ctx context.Context, id, by string, allowed func(Token) bool) (Token, error) {
	if !IsID(id) {
		return Token{}, errAbsent
	}
	ctx, cancel := record.Detach(ctx)
	defer cancel()
	t, _, err := s.read(ctx, id)
	if err != nil {
		return Token{}, err
	}
	if !allowed(t) {
		return Token{}, errAbsent
	}
	if !t.Revoked.IsZero() {
		return t, nil
	}
	t.Revoked, t.RevokedBy = s.now().UTC().Truncate(time.Second), by
	content, err := json.Marshal(revocation{t.Revoked, t.RevokedBy})
	if err != nil {
		return Token{}, fmt.Errorf("encoding a revocation: %w", err)
	}
	err = s.folder.Store(ctx, revocationName(id), content)
	s.known.Remove(id) // the file may be stored even after an error
	if err != nil {
		return Token{}, unavailable("revoking an access token", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// The storage may show the revocation late.
	s.revoked[id] = t
	for id, old := range s.revoked {
		if s.now().After(old.Expires) {
			delete(s.revoked, id)
		}
	}
	return t, nil
}

// revokedHere returns a token that this node has revoked.
func (s *Store) revokedHere(id string) (Token, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.revoked[id]
	return t, ok
}

// The files of a token: the token, its revocation, and when it was last used.
func tokenName(id string) string      { return id + tokenSuffix }
func revocationName(id string) string { return id + ".revoked" }
func useName(id string) string        { return id + ".used" }

const tokenSuffix = ".json"

// report reports an error that does not fail a call.
func (s *Store) report(what string, err error) {
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.hooks.StorageError(fmt.Errorf("%s: %w", what, err))
	}
}
