package blobcache

import (
	"sync"
	"sync/atomic"
)

const (
	// smallBuffer is what hundreds of readers, and connections to slow sources,
	// can take at the same time, in bytes.
	smallBuffer = 64 << 10

	// largeBuffer is for bytes that come faster: fewer and larger calls take
	// less time of all the cores.
	largeBuffer = 1 << 20

	// largeBuffers is how many of those are in use at most, in the process.
	largeBuffers = 16
)

// buffer is memory that bytes pass through. Whoever holds it releases it; the
// last one gives it back.
type buffer struct {
	b    []byte
	refs atomic.Int32
}

// Buffers are shared, since fills and readers come in bursts.
var (
	smallPool = bufferPool(smallBuffer)
	largePool = bufferPool(largeBuffer)
	largeUsed atomic.Int32
)

func bufferPool(size int) *sync.Pool {
	return &sync.Pool{New: func() any { return &buffer{b: make([]byte, size)} }}
}

// takeBuffer returns a buffer, a large one if that is wished and there are any.
func takeBuffer(large bool) *buffer {
	pool := smallPool
	if large {
		if largeUsed.Add(1) <= largeBuffers {
			pool = largePool
		} else {
			largeUsed.Add(-1)
		}
	}
	buf := pool.Get().(*buffer)
	buf.refs.Store(1)
	return buf
}

func (b *buffer) large() bool { return len(b.b) > smallBuffer }

func (b *buffer) hold() { b.refs.Add(1) }

func (b *buffer) release() {
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

// fit returns the buffer to go on with when n bytes have come at once: a large
// one if they would have filled a small one. It takes the place of the old one.
func (b *buffer) fit(n int) *buffer {
	if large := n >= smallBuffer; large != b.large() {
		b.release()
		return takeBuffer(large)
	}
	return b
}
