// Package recordtest contains a storage and a clock for the tests of
// tokenissuer and accesstoken.
package recordtest

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"strings"
	"sync"
	"testing"
	"time"
)

// ErrAway is the error of a storage that does not answer.
var ErrAway = errors.New("storage is away")

// Storage is a record.Storage in memory that several nodes can share. It reports
// a test failure if a key or token (*.json) is overwritten. While other
// goroutines use it, its fields must only be accessed within Set.
type Storage struct {
	t  testing.TB
	mu sync.Mutex

	Files map[string][]byte
	// Lists, Loads and Stores count the calls, Stores only successful ones.
	Lists, Loads, Stores int

	// Err is returned by all methods, StoreErr only by Store.
	Err, StoreErr error
	// FailSuffix makes Load and Store fail for keys with this suffix. Store has
	// taken effect nevertheless.
	FailSuffix string
	// Unlisted hides all files from List, and Delayed hides the given keys from
	// List and Load, as a storage with delayed listings or replication does.
	Unlisted bool
	Delayed  map[string]bool
	// OnList and OnLoad, if not nil, are called before List and Load return,
	// without the lock. Load has read the file by then.
	OnList func(ctx context.Context)
	OnLoad func(key string)
}

// NewStorage returns an empty storage.
func NewStorage(t testing.TB) *Storage {
	return &Storage{t: t, Files: map[string][]byte{}, Delayed: map[string]bool{}}
}

// Set calls change with the lock held.
func (s *Storage) Set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

// Store implements record.Storage.
func (s *Storage) Store(ctx context.Context, key string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := errors.Join(s.Err, s.StoreErr, ctx.Err()); err != nil {
		return err
	}
	if _, exists := s.Files[key]; exists && strings.HasSuffix(key, ".json") {
		s.t.Errorf("%s was overwritten", key)
	}
	s.Stores++
	s.Files[key] = value
	return s.failure(key)
}

// Load implements record.Storage.
func (s *Storage) Load(ctx context.Context, key string) ([]byte, error) {
	s.mu.Lock()
	s.Loads++
	value, exists := s.Files[key]
	exists = exists && !s.Delayed[key]
	err, onLoad := errors.Join(s.Err, s.failure(key), ctx.Err()), s.OnLoad
	s.mu.Unlock()
	if onLoad != nil {
		onLoad(key)
	}
	if err == nil && !exists {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, err
	}
	return value, nil
}

// List implements record.Storage.
func (s *Storage) List(ctx context.Context, prefix string, _ bool) ([]string, error) {
	s.mu.Lock()
	s.Lists++
	onList := s.OnList
	s.mu.Unlock()
	if onList != nil {
		onList(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := errors.Join(s.Err, ctx.Err()); err != nil {
		return nil, err
	}
	var keys []string
	for key := range s.Files {
		if path.Dir(key) == prefix && !s.Unlisted && !s.Delayed[key] {
			keys = append(keys, key)
		}
	}
	if keys == nil {
		return nil, fs.ErrNotExist
	}
	return keys, nil
}

// Delete implements record.Storage.
func (s *Storage) Delete(ctx context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := errors.Join(s.Err, ctx.Err()); err != nil {
		return err
	}
	delete(s.Files, key)
	return nil
}

// Keys returns the keys of all files.
func (s *Storage) Keys() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var keys []string
	for key := range s.Files {
		keys = append(keys, key)
	}
	return keys
}

// Listed returns the number of calls of List.
func (s *Storage) Listed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Lists
}

// Loaded returns the number of calls of Load.
func (s *Storage) Loaded() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Loads
}

func (s *Storage) failure(key string) error {
	if s.FailSuffix != "" && strings.HasSuffix(key, s.FailSuffix) {
		return ErrAway
	}
	return nil
}

// Clock is a clock that tests advance.
type Clock struct {
	mu sync.Mutex
	t  time.Time
}

// NewClock returns a clock that shows 2026-11-23 12:30 UTC.
func NewClock() *Clock {
	return &Clock{t: time.Date(2026, 11, 23, 12, 30, 0, 0, time.UTC)}
}

// Now returns the time that the clock shows.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

// Advance moves the clock by d, which may be negative.
func (c *Clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}
