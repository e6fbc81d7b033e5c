package gitlabapi

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"
)

const (
	// capacity is how many answers are remembered, and as many negative ones.
	// They are apart, so that who asks for what does not exist drives out no
	// answer that somebody needs.
	capacity = 8192
	// backOff is how long GitLab is left alone after trouble, unless it says.
	backOff = 10 * time.Second
	// maxBackOff bounds what GitLab may say.
	maxBackOff = time.Minute
)

// Memory remembers answers. One is used for a while without asking again; when
// GitLab cannot tell, an older one is used too, up to the grace. Concurrent
// questions are one.
type Memory struct {
	cacheFor, grace time.Duration

	yes, no *lru.Cache[string, answer]
	flights singleflight.Group

	mu   sync.Mutex
	away map[string]absence // by kind of question
}

// answer is a value or a definite error, as it was when it was asked for.
type answer struct {
	value any
	err   error
	at    time.Time
}

// ErrOnce is wrapped by an answer that the same question may not get again, such as
// by another request. It is not remembered.
var ErrOnce = errors.New("it may be otherwise the next time")

// absence is trouble, and until when it is not looked at again.
type absence struct {
	until time.Time
	err   error
}

// NewMemory makes one whose answers hold for cacheFor, and up to grace while
// GitLab is away.
func NewMemory(cacheFor, grace time.Duration) *Memory {
	m := &Memory{cacheFor: cacheFor, grace: grace, away: make(map[string]absence)}
	for _, cache := range []**lru.Cache[string, answer]{&m.yes, &m.no} {
		var err error
		if *cache, err = lru.New[string, answer](capacity); err != nil {
			panic(err) // the size is a positive constant
		}
	}
	return m
}

// Knows tells whether there is an answer, of whatever age and either way.
func (m *Memory) Knows(kind, key string) bool {
	_, ok := m.last(kind + " " + key)
	return ok
}

// Knew reports whether the answer to a question was a yes within the grace.
func (m *Memory) Knew(kind, key string) bool {
	a, ok := m.yes.Get(kind + " " + key)
	return ok && time.Since(a.at) < m.grace
}

func (m *Memory) last(key string) (answer, bool) {
	if a, ok := m.yes.Get(key); ok {
		return a, true
	}
	return m.no.Get(key)
}

// Ask returns the answer to a question: a remembered one, or what ask returns. It
// returns early with the context's error; the question is asked to its end then,
// since others may wait for it. Questions of one kind must not be asked within
// ask of the same kind.
//
// When GitLab is away for one question, all of that kind wait for 10 s, or for as
// long as it says, at most a minute. Meanwhile what is remembered answers, and
// for what is not it is the same trouble again.
func Ask[T any](ctx context.Context, m *Memory, kind, key string, ask func(context.Context) (T, error)) (T, error) {
	key = kind + " " + key
	a, ok := m.last(key)
	if ok && time.Since(a.at) < m.cacheFor {
		return unpack[T](a)
	}
	if err := m.Away(kind); err != nil {
		return known[T](m, key, err)
	}
	flight := m.flights.DoChan(key, func() (any, error) {
		at := time.Now() // what changes while the question is under way may be missed
		value, err := ask(context.WithoutCancel(ctx))
		if m.keep(kind, key, answer{value, err, at}) {
			return answer{value, err, at}, nil
		}
		return nil, err
	})
	select {
	case <-ctx.Done():
		var none T
		return none, ctx.Err()
	case result := <-flight:
		if result.Err != nil {
			return known[T](m, key, result.Err)
		}
		return unpack[T](result.Val.(answer))
	}
}

// known is what there is instead of an answer: one of before, or the trouble.
func known[T any](m *Memory, key string, trouble error) (T, error) {
	if a, ok := m.last(key); ok && time.Since(a.at) < m.grace {
		return unpack[T](a)
	}
	var none T
	return none, trouble
}

func unpack[T any](a answer) (T, error) {
	value, _ := a.value.(T)
	return value, a.err
}

// keep remembers what came of a question, and tells whether it is an answer.
func (m *Memory) keep(kind, key string, a answer) bool {
	if trouble := (*Trouble)(nil); errors.As(a.err, &trouble) {
		if trouble.Away {
			wait := min(backOff, m.cacheFor)
			if trouble.RetryAfter > 0 {
				wait = min(trouble.RetryAfter, maxBackOff)
			}
			m.mu.Lock()
			m.away[kind] = absence{time.Now().Add(wait), a.err}
			m.mu.Unlock()
		}
		return false
	}
	m.mu.Lock()
	delete(m.away, kind)
	m.mu.Unlock()
	if errors.Is(a.err, ErrOnce) {
		m.yes.Remove(key)
		m.no.Remove(key)
		return true
	}
	if a.err != nil {
		m.no.Add(key, a)
		m.yes.Remove(key)
		return true
	}
	m.yes.Add(key, a)
	m.no.Remove(key)
	return true
}

// Away is why a kind of question is not to be asked now, nil if it may be.
func (m *Memory) Away(kind string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if a := m.away[kind]; time.Now().Before(a.until) {
		return fmt.Errorf("GitLab is left alone for a moment: %w", a.err)
	}
	return nil
}
