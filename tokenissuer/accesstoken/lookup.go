package accesstoken

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"sync/atomic"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/internal/flight"
	"github.com/dependencyproxy/caddy-dependency-proxy/tokenissuer/internal/record"
)

// callList is the key of the shared listing. It is not an ID.
const callList = ""

// entry is a remembered token.
type entry struct {
	token Token
	sum   [sha256.Size]byte
	read  time.Time
	used  *atomic.Int64 // the last hour recorded, in seconds since 1970
}

// Verify returns the token with the given secret and records its use. The error
// of a token that is not valid is an [IsRefusal], any other error is an
// [ErrUnavailable].
func (s *Store) Verify(ctx context.Context, secret string) (Token, error) {
	if !isWellFormed(secret) {
		return Token{}, ErrMalformed
	}
	sum := sha256.Sum256([]byte(secret))
	e, err := s.get(ctx, idOf(sum))
	if err != nil {
		return Token{}, err
	}
	// The ID contains only the beginning of the hash.
	if subtle.ConstantTimeCompare(e.sum[:], sum[:]) != 1 {
		return Token{}, errAbsent
	}
	return s.use(ctx, e)
}

// Find is like Verify for the ID of a token whose secret was verified before. It
// is fast enough for each request.
func (s *Store) Find(ctx context.Context, id string) (Token, error) {
	e, err := s.get(ctx, id)
	if err != nil {
		return Token{}, err
	}
	return s.use(ctx, e)
}

// Peek is like Find but does not record a use.
func (s *Store) Peek(ctx context.Context, id string) (Token, error) {
	e, err := s.get(ctx, id)
	if err != nil {
		return Token{}, err
	}
	return e.token, e.token.Valid(s.now())
}

// use checks that a token is valid now, and records its use.
func (s *Store) use(ctx context.Context, e *entry) (Token, error) {
	now := s.now()
	if err := e.token.Valid(now); err != nil {
		return e.token, err
	}
	hour := now.UTC().Truncate(time.Hour)
	last := e.used.Load()
	if last != hour.Unix() && e.used.CompareAndSwap(last, hour.Unix()) {
		s.recordUse(ctx, e.token.ID, hour)
	}
	return e.token, nil
}

// recordUse stores the hour of the last use. It has a file of its own, so that
// the token's is never overwritten. A failure is reported and does not reject the
// token.
func (s *Store) recordUse(ctx context.Context, id string, hour time.Time) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), useTimeout)
	defer cancel()
	content, err := json.Marshal(hour)
	if err == nil {
		err = s.folder.Store(ctx, useName(id), content)
	}
	s.report("recording the use of an access token", err)
}

// get returns a token as it was at most cacheFor ago. Concurrent calls for the
// same token read it once.
func (s *Store) get(ctx context.Context, id string) (*entry, error) {
	if !IsID(id) {
		return nil, errAbsent
	}
	if _, ok := s.revokedHere(id); ok {
		return nil, ErrRevoked
	}
	now := s.now()
	if e, ok := s.known.Get(id); ok && isRecent(e.read, now, cacheFor) {
		return e, nil
	}
	if at, ok := s.absent.Get(id); ok && isRecent(at, now, absentFor) {
		return nil, errAbsent
	}
	e, err := flight.Do(ctx, &s.calls, id, func(ctx context.Context) (*entry, error) { return s.refresh(ctx, id) })
	if err != nil {
		if !IsRefusal(err) && !errors.Is(err, ErrUnavailable) {
			err = unavailable("waiting for an access token", err)
		}
		return nil, err
	}
	// It may have been revoked while it was read.
	if _, ok := s.revokedHere(id); ok {
		return nil, ErrRevoked
	}
	return e, nil
}

// isRecent reports whether at is less than limit before now. A time in the
// future is not recent: the clock was set back.
func isRecent(at, now time.Time, limit time.Duration) bool {
	age := now.Sub(at)
	return age >= 0 && age < limit
}

// refresh reads a token and remembers the result.
func (s *Store) refresh(ctx context.Context, id string) (*entry, error) {
	started := s.now()
	old, seen := s.known.Peek(id)
	if seen && isRecent(old.read, started, cacheFor) {
		return old, nil // read between the caller's check and this call
	}
	ctx, cancel := record.Detach(ctx)
	defer cancel()
	// In a flood of invented secrets, a token is looked up only if it was known
	// before or is in a list of all tokens. A listing costs about as much as a few
	// lookups, whatever the size of the flood.
	if !seen && !s.lookups.AllowN(started, 1) {
		exists, err := s.isListed(ctx, id)
		if err != nil {
			return nil, unavailable("listing access tokens", err)
		}
		if !exists {
			return nil, errAbsent
		}
	}
	t, sum, err := s.read(ctx, id)
	if errors.Is(err, fs.ErrNotExist) {
		s.known.Remove(id)
		s.absent.Add(id, started)
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	e := &entry{token: t, sum: sum, read: started, used: new(atomic.Int64)}
	if seen {
		e.used = old.used
	}
	s.absent.Remove(id)
	s.known.Add(id, e)
	return e, nil
}

// isListed reports whether a list of all tokens, made at most absentFor ago,
// contains an ID.
func (s *Store) isListed(ctx context.Context, id string) (bool, error) {
	now := s.now()
	s.mu.Lock()
	ids, recent := s.ids, s.ids != nil && isRecent(s.idsRead, now, absentFor)
	s.mu.Unlock()
	if recent {
		return ids[id], nil
	}
	ids, err := flight.Do(ctx, &s.calls, callList, func(ctx context.Context) (map[string]bool, error) {
		names, err := s.names(ctx)
		if err != nil {
			return nil, err
		}
		ids := make(map[string]bool)
		for id := range tokenIDs(names) {
			ids[id] = true
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.ids, s.idsRead = ids, now
		return ids, nil
	})
	return ids[id], err
}

// read returns a token as it is stored, revoked or not, and the hash of its
// secret. A damaged file is treated as absent, because it will not change.
func (s *Store) read(ctx context.Context, id string) (Token, [sha256.Size]byte, error) {
	var none [sha256.Size]byte
	content, err := s.folder.Load(ctx, tokenName(id))
	if errors.Is(err, fs.ErrNotExist) {
		return Token{}, none, errAbsent
	}
	if err != nil {
		return Token{}, none, unavailable("loading an access token", err)
	}
	t, sum, err := decodeFile(id, content)
	if err != nil {
		s.hooks.BadFile(id, err)
		return Token{}, none, fmt.Errorf("access token %s is damaged: %w", id, fs.ErrNotExist)
	}
	if revoked, ok := s.revokedHere(id); ok {
		return revoked, sum, nil
	}
	content, err = s.folder.Load(ctx, revocationName(id))
	if errors.Is(err, fs.ErrNotExist) {
		return t, sum, nil
	}
	if err != nil {
		return Token{}, none, unavailable("loading a revocation", err)
	}
	var r revocation
	if json.Unmarshal(content, &r) != nil || r.Revoked.IsZero() {
		r.Revoked = t.Created // a damaged revocation counts too
	}
	t.Revoked, t.RevokedBy = r.Revoked, r.RevokedBy
	return t, sum, nil
}
