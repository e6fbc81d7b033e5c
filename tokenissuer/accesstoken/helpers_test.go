package accesstoken

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

var errAway = errors.New("storage is away")

// memStorage is a storage as several nodes see it. It refuses what a store must
// never do: overwrite a token.
type memStorage struct {
	t  testing.TB
	mu sync.Mutex

	files  map[string][]byte
	loads  int
	lists  int
	stores int
	fail   error // of every call
	// failing is the end of the keys at which calls fail, a Store after it has
	// taken effect.
	failing string
	// loading, if not nil, is called by Load before it answers, and again after.
	loading func(key string)
	// lagging keys are stored, but do not show.
	lagging map[string]bool
}

func newStorage(t testing.TB) *memStorage {
	return &memStorage{t: t, files: map[string][]byte{}, lagging: map[string]bool{}}
}

func (s *memStorage) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *memStorage) failure(key string) error {
	if s.failing != "" && strings.HasSuffix(key, s.failing) {
		return errAway
	}
	return nil
}

func (s *memStorage) Store(ctx context.Context, key string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := errors.Join(s.fail, ctx.Err()); err != nil {
		return err
	}
	if _, exists := s.files[key]; exists && strings.HasSuffix(key, ".json") {
		s.t.Errorf("%s was overwritten", key)
	}
	s.stores++
	s.files[key] = value
	return s.failure(key)
}

func (s *memStorage) Load(ctx context.Context, key string) ([]byte, error) {
	s.mu.Lock()
	s.loads++
	value, exists := s.files[key]
	exists = exists && !s.lagging[key]
	err, loading := errors.Join(s.fail, s.failure(key), ctx.Err()), s.loading
	s.mu.Unlock()
	if loading != nil {
		loading(key)
	}
	switch {
	case err != nil:
		return nil, err
	case !exists:
		return nil, fs.ErrNotExist
	}
	return value, nil
}

func (s *memStorage) List(ctx context.Context, prefix string, _ bool) ([]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lists++
	if err := errors.Join(s.fail, ctx.Err()); err != nil {
		return nil, err
	}
	var keys []string
	for key := range s.files {
		if path.Dir(key) == prefix && !s.lagging[key] {
			keys = append(keys, key)
		}
	}
	if keys == nil {
		return nil, fs.ErrNotExist
	}
	return keys, nil
}

func (s *memStorage) Delete(ctx context.Context, key string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := errors.Join(s.fail, ctx.Err()); err != nil {
		return err
	}
	delete(s.files, key)
	return nil
}

func (s *memStorage) loaded() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.loads
}

type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock {
	return &clock{t: time.Date(2026, 11, 23, 12, 30, 0, 0, time.UTC)}
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

func newNode(s Storage, c *clock) *Store { return New(Config{Storage: s, Now: c.now}) }

var (
	deploy   = Token{Kind: Deploy, Name: "runner 7", Groups: []string{"acme"}, Scopes: []Scope{Pull}}
	personal = Token{Kind: Personal, Owner: &Owner{Name: "alice", Directory: "static", Facts: "f"}, Scopes: []Scope{Pull, Manage}}
	ofGroup  = Token{Kind: Group, Groups: []string{"acme/sub"}, Role: "owner", Scopes: []Scope{Pull, Manage}, Site: "one", CreatedBy: "mia"}
)

func create(t testing.TB, s *Store, token Token, lifetime time.Duration) (Token, string) {
	t.Helper()
	made, secret, err := s.Create(t.Context(), token, lifetime)
	if err != nil {
		t.Fatal(err)
	}
	return made, secret
}

func accept(t testing.TB, s *Store, secret string) Token {
	t.Helper()
	token, err := s.Verify(t.Context(), secret)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func refuse(t testing.TB, s *Store, secret string, want error) {
	t.Helper()
	_, err := s.Verify(t.Context(), secret)
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
	if IsRefusal(err) == errors.Is(err, ErrUnavailable) {
		t.Errorf("%v is both or neither", err)
	}
	if strings.Contains(err.Error(), secret) {
		t.Errorf("the error shows the secret: %v", err)
	}
}
