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
)

// entry is what is remembered of a token.
type entry struct {
	token Token
	sum   [sha256.Size]byte
	read  time.Time
	used  *atomic.Int64 // the last hour recorded, in seconds since 1970
}

// Verify returns the token of a secret, and records that it is used. A token
// that is no good is an [IsRefusal]; any other error is an [ErrUnavailable].
func (s *Store) Verify(ctx context.Context, secret string) (Token, error) {
	if !wellFormed(secret) {
		return Token{}, ErrMalformed
	}
	sum := sha256.Sum256([]byte(secret))
	e, err := s.get(ctx, idOf(sum))
	if err != nil {
		return Token{}, err
	}
	// An id is only the beginning of the hash.
	if subtle.ConstantTimeCompare(e.sum[:], sum[:]) != 1 {
		return Token{}, errAbsent
	}
	return s.use(ctx, e)
}

// Find returns the token with an id that was seen before, such as in what was
// issued for its secret, and records that it is used. Errors are those of
// Verify. It is meant for each request.
func (s *Store) Find(ctx context.Context, id string) (Token, error) {
	e, err := s.get(ctx, id)
	if err != nil {
		return Token{}, err
	}
	return s.use(ctx, e)
}

// Peek is Find for those who only want to know.
func (s *Store) Peek(ctx context.Context, id string) (Token, error) {
	e, err := s.get(ctx, id)
	if err != nil {
		return Token{}, err
	}
	return e.token, e.token.Valid(s.now())
}

// use judges a token now, and records that it was good for something.
func (s *Store) use(ctx context.Context, e *entry) (Token, error) {
	now := s.now()
	if err := e.token.Valid(now); err != nil {
		return e.token, err
	}
	hour := now.UTC().Truncate(time.Hour)
	last := e.used.Load()
	if last == hour.Unix() || !e.used.CompareAndSwap(last, hour.Unix()) {
		return e.token, nil
	}
	// In a file of its own, so that the token's is never overwritten. Nobody
	// waits long for it, and nobody is refused because of it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), useTimeout)
	defer cancel()
	content, err := json.Marshal(hour)
	if err == nil {
		err = s.storage.Store(ctx, s.used(e.token.ID), content)
	}
	s.trouble("recording the use of an access token", err)
	return e.token, nil
}

// get is a token as it was at most CacheFor ago. Those who want the same one
// read it once.
func (s *Store) get(ctx context.Context, id string) (*entry, error) {
	if !IsID(id) {
		return nil, errAbsent
	}
	if _, ok := s.endedHere(id); ok {
		return nil, ErrRevoked
	}
	now := s.now()
	if e, ok := s.known.Get(id); ok && within(CacheFor, e.read, now) {
		return e, nil
	}
	if at, ok := s.absent.Get(id); ok && within(AbsentFor, at, now) {
		return nil, errAbsent
	}
	result := s.flights.DoChan(id, func() (any, error) { return s.refresh(ctx, id) })
	select {
	case r := <-result:
		if r.Err != nil {
			return nil, r.Err
		}
		// It may have been revoked while it was read.
		if _, ok := s.endedHere(id); ok {
			return nil, ErrRevoked
		}
		return r.Val.(*entry), nil
	case <-ctx.Done():
		return nil, unavailable("waiting for an access token", context.Cause(ctx))
	}
}

// within tells whether a moment is not longer ago than a limit. One that is
// still to come means that the clock was put right.
func within(limit time.Duration, at, now time.Time) bool {
	age := now.Sub(at)
	return age >= 0 && age < limit
}

// refresh reads a token and remembers what it found.
func (s *Store) refresh(ctx context.Context, id string) (*entry, error) {
	began := s.now()
	old, seen := s.known.Peek(id)
	if seen && within(CacheFor, old.read, began) {
		return old, nil // whoever asks was late for the last look
	}
	ctx, cancel := detached(ctx)
	defer cancel()
	// During a flood of invented secrets, only tokens that were valid before, or
	// that a list of all tokens contains, are looked up. A list costs about as much
	// as a few look-ups, and the flood does not make it longer.
	if !seen && !s.lookups.AllowN(began, 1) {
		there, err := s.isListed(ctx, id)
		if err != nil {
			return nil, unavailable("listing access tokens", err)
		}
		if !there {
			return nil, errAbsent
		}
	}
	t, sum, err := s.read(ctx, id)
	if errors.Is(err, fs.ErrNotExist) {
		s.known.Remove(id)
		s.absent.Add(id, began)
		return nil, err
	}
	if err != nil {
		return nil, err
	}
	e := &entry{token: t, sum: sum, read: began, used: new(atomic.Int64)}
	if seen {
		e.used = old.used
	}
	s.absent.Remove(id)
	s.known.Add(id, e)
	return e, nil
}

// isListed reports whether a list of all tokens, made at most AbsentFor ago, has
// an id.
func (s *Store) isListed(ctx context.Context, id string) (bool, error) {
	now := s.now()
	s.mu.Lock()
	ids, fresh := s.ids, s.ids != nil && within(AbsentFor, s.idsRead, now)
	s.mu.Unlock()
	if fresh {
		return ids[id], nil
	}
	v, err, _ := s.listings.Do("", func() (any, error) {
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
	if err != nil {
		return false, err
	}
	return v.(map[string]bool)[id], nil
}

// read is a token as storage has it. A damaged file is as good as none: it will
// be the same tomorrow.
func (s *Store) read(ctx context.Context, id string) (Token, [sha256.Size]byte, error) {
	none := [sha256.Size]byte{}
	content, err := s.storage.Load(ctx, s.file(id))
	if errors.Is(err, fs.ErrNotExist) {
		return Token{}, none, errAbsent
	}
	if err != nil {
		return Token{}, none, unavailable("loading an access token", err)
	}
	t, sum, err := decodeFile(id, content)
	if err != nil {
		if s.hooks.BadFile != nil {
			s.hooks.BadFile(id, err)
		}
		return Token{}, none, fmt.Errorf("access token %s is damaged: %w", id, fs.ErrNotExist)
	}
	if ended, ok := s.endedHere(id); ok {
		return ended, sum, nil
	}
	content, err = s.storage.Load(ctx, s.grave(id))
	if errors.Is(err, fs.ErrNotExist) {
		return t, sum, nil
	}
	if err != nil {
		return Token{}, none, unavailable("loading a revocation", err)
	}
	var stone tombstone
	if json.Unmarshal(content, &stone) != nil || stone.Revoked.IsZero() {
		stone.Revoked = t.Created // that it is there is what counts
	}
	t.Revoked, t.RevokedBy = stone.Revoked, stone.RevokedBy
	return t, sum, nil
}
