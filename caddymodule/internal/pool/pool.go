// Package pool shares values between the configurations of a process.
//
// Caddy provisions a new configuration before it cleans up the old one. A value that
// both acquire under one key lives on: the first acquisition opens it, and the
// release of the last one stops it. That is how running downloads, keys and the
// counts of failed logins survive a reload.
//
// A [Lease] belongs to one module of one configuration. Cleanup releases exactly
// what Provision has acquired, even if Provision failed half-way.
package pool

import (
	"slices"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
)

var held atomic.Int64

// Held returns the number of values that all leases of the process have, in all pools. If no
// configuration runs, values that are still held have leaked.
func Held() int { return int(held.Load()) }

// Pool holds values by key as long as at least one lease has them.
type Pool[T any] struct {
	values *caddy.UsagePool
	stop   func(T)
}

// New returns a pool that calls stop, unless it is nil, with a value when the last
// lease releases it. Requests of an old configuration may still use the value then.
func New[T any](stop func(T)) *Pool[T] {
	return &Pool[T]{caddy.NewUsagePool(), stop}
}

// Acquire returns the value for a key, which open makes if no lease has it, and adds
// it to the lease.
func (p *Pool[T]) Acquire(l *Lease, key string, open func() (T, error)) (T, error) {
	shared, _, err := p.values.LoadOrNew(key, func() (caddy.Destructor, error) {
		value, err := open()
		if err == nil {
			held.Add(1)
		}
		return &pooled[T]{value, p.stop}, err
	})
	if err != nil {
		var none T
		return none, err
	}
	*l = append(*l, func() { _, _ = p.values.Delete(key) })
	return shared.(*pooled[T]).value, nil
}

// All returns the values that leases have.
func (p *Pool[T]) All() (values []T) {
	p.values.Range(func(_, shared any) bool {
		values = append(values, shared.(*pooled[T]).value)
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
	held.Add(-1)
	if p.stop != nil {
		p.stop(p.value)
	}
	return nil
}

// Lease records what a module has acquired. The zero value is ready to use.
type Lease []func()

// Release releases everything, in reverse order.
func (l *Lease) Release() {
	for _, release := range slices.Backward(*l) {
		release()
	}
	*l = nil
}
