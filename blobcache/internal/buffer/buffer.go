// Package buffer has pooled memory in two sizes: small buffers, of which there may
// be any number, and a bounded number of large ones for fast connections. Buffers
// count references, so that a writer and several readers can share one.
package buffer

import (
	"sync"
	"sync/atomic"
)

const (
	// Small is the size in bytes for readers and for slow connections, of
	// which there may be hundreds.
	Small = 64 << 10

	// Large is the size in bytes for fast connections: fewer and larger
	// calls take less processor time.
	Large = 1 << 20

	// MaxLarge is the number of large buffers in use at most, in the whole
	// process.
	MaxLarge = 16
)

// Buffer is memory with a reference count. The last release gives it back to
// its pool.
type Buffer struct {
	B    []byte
	refs atomic.Int32
}

// Buffers are pooled, since fills and readers come in bursts.
var (
	smallPool = bufferPool(Small)
	largePool = bufferPool(Large)
	largeUsed atomic.Int32
)

func bufferPool(size int) *sync.Pool {
	return &sync.Pool{New: func() any { return &Buffer{B: make([]byte, size)} }}
}

// Take returns a buffer, a large one if large is set and one is
// available.
func Take(large bool) *Buffer {
	pool := smallPool
	if large {
		if largeUsed.Add(1) <= MaxLarge {
			pool = largePool
		} else {
			largeUsed.Add(-1)
		}
	}
	buf := pool.Get().(*Buffer)
	buf.refs.Store(1)
	return buf
}

func (b *Buffer) large() bool { return len(b.B) > Small }

// Hold adds a reference.
func (b *Buffer) Hold() { b.refs.Add(1) }

// Release gives up a reference.
func (b *Buffer) Release() {
	if b.refs.Add(-1) > 0 {
		return
	}
	if b.large() {
		largeUsed.Add(-1)
		largePool.Put(b)
	} else {
		smallPool.Put(b)
	}
}

// Fit returns the buffer to go on with after a read of n bytes: a large one if
// they would have filled a small one. It replaces b.
func (b *Buffer) Fit(n int) *Buffer {
	if large := n >= Small; large != b.large() {
		b.Release()
		return Take(large)
	}
	return b
}

// LargeInUse returns the number of large buffers in use.
func LargeInUse() int { return int(largeUsed.Load()) }
