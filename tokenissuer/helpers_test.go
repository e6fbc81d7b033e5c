package tokenissuer

import (
	"context"
	"errors"
	"io/fs"
	"path"
	"sync"
	"testing"
	"time"
)

const testIssuer = "https://registry.example.com"

var errAway = errors.New("storage is away")

// memStorage is a storage as several nodes see it. It refuses what a ring must
// never do: overwrite a key.
type memStorage struct {
	t  testing.TB
	mu sync.Mutex

	files  map[string][]byte
	lists  int
	fail   error // of every call
	store  error // of Store alone
	hidden bool  // listings lag behind: they show nothing
	// listing, if not nil, is called by List before it answers.
	listing func(context.Context)
}

func newStorage(t testing.TB) *memStorage {
	return &memStorage{t: t, files: map[string][]byte{}}
}

func (s *memStorage) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *memStorage) Store(ctx context.Context, key string, value []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := errors.Join(s.fail, s.store, ctx.Err()); err != nil {
		return err
	}
	if _, exists := s.files[key]; exists {
		s.t.Errorf("%s was overwritten", key)
	}
	s.files[key] = value
	return nil
}

func (s *memStorage) Load(ctx context.Context, key string) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := errors.Join(s.fail, ctx.Err()); err != nil {
		return nil, err
	}
	value, exists := s.files[key]
	if !exists {
		return nil, fs.ErrNotExist
	}
	return value, nil
}

func (s *memStorage) List(ctx context.Context, prefix string, _ bool) ([]string, error) {
	s.mu.Lock()
	s.lists++
	listing := s.listing
	s.mu.Unlock()
	if listing != nil {
		listing(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := errors.Join(s.fail, ctx.Err()); err != nil {
		return nil, err
	}
	var keys []string
	for key := range s.files {
		if path.Dir(key) == prefix && !s.hidden {
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

func (s *memStorage) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for key := range s.files {
		names = append(names, key)
	}
	return names
}

func (s *memStorage) listed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lists
}

type clock struct {
	mu sync.Mutex
	t  time.Time
}

func newClock() *clock {
	return &clock{t: time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)}
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

// newNode is an issuer with a ring of its own.
func newNode(s Storage, c *clock, rotate time.Duration) *Issuer {
	return New(Config{KeyRing: NewKeyRing(KeyRingConfig{
		Storage: s, Rotate: rotate, TokenLifetime: 12 * time.Hour, Now: c.now,
	})})
}

func request(name string) MintRequest {
	return MintRequest{
		Issuer:   testIssuer,
		Identity: Identity{Name: name, Version: "7", Directory: "static", Facts: `{"id":7}`},
		Lifetime: 15 * time.Minute,
		Use:      Access,
	}
}

func mint(t testing.TB, i *Issuer, r MintRequest) Token {
	t.Helper()
	token, err := i.Mint(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// accept demands that the token is good and alice's.
func accept(t testing.TB, i *Issuer, raw string) {
	t.Helper()
	id, err := i.Verify(t.Context(), raw, testIssuer, Access)
	if err != nil {
		t.Fatal(err)
	}
	if want := request("alice").Identity; id != want {
		t.Fatalf("got %+v, want %+v", id, want)
	}
}

func refuse(t testing.TB, i *Issuer, raw string, want error) {
	t.Helper()
	id, err := i.Verify(t.Context(), raw, testIssuer, Access)
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
	if id != (Identity{}) {
		t.Fatalf("an identity came with the refusal: %+v", id)
	}
}
