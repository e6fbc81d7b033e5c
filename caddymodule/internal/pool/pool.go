// Package pool shares values between the configurations of a process.
//
// Caddy provisions a new configuration before it cleans up the old one. A value
// that both acquire under one key lives on: it is opened by the first and
// stopped when the last has released it. That is how fills under way, keys and
// what is remembered about guessed passwords survive a reload.
//
// A [Lease] belongs to one module of one configuration. Its Cleanup releases
// exactly what its Provision acquired, also if Provision failed half-way.
package pool

import (
	"slices"

	"github.com/caddyserver/caddy/v2"
)

// Pool holds values by key while at least one lease has them.
type Pool[T any] struct {
	values *caddy.UsagePool
	stop   func(T)
}

// New returns a pool that calls stop, unless it is nil, with each value that no
// lease has any more. Requests of an old configuration may still use the value.
func New[T any](stop func(T)) *Pool[T] {
	return &Pool[T]{caddy.NewUsagePool(), stop}
}

// Acquire returns the value of a key, and calls open if there is none.
func (p *Pool[T]) Acquire(l *Lease, key string, open func() (T, error)) (T, error) {
	held, _, err := p.values.LoadOrNew(key, func() (caddy.Destructor, error) {
		value, err := open()
		return &pooled[T]{value, p.stop}, err
	})
	if err != nil {
		var none T
		return none, err
	}
	*l = append(*l, func() { _, _ = p.values.Delete(key) })
	return held.(*pooled[T]).value, nil
}

// All returns the values that are held.
func (p *Pool[T]) All() (values []T) {
	p.values.Range(func(_, held any) bool {
		values = append(values, held.(*pooled[T]).value)
		return true
	})
	return values
}

type pooled[T any] struct {
	value T
	stop  func(T)
}

// Destruct implements [caddy.Destructor].
func (p *pooled[T]) Destruct() error {
	if p.stop != nil {
		p.stop(p.value)
	}
	return nil
}

// Lease holds what a module has acquired. The zero value is ready to use.
type Lease []func()

// Release gives everything back, the last acquired first.
func (l *Lease) Release() {
	for _, release := range slices.Backward(*l) {
		release()
	}
	*l = nil
}
