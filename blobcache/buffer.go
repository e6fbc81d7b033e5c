package blobcache

import (
	"sync"
	"sync/atomic"
)

const (
	// smallBuffer is the size in bytes for readers and for slow connections, of
	// which there may be hundreds.
	smallBuffer = 64 << 10

	// largeBuffer is the size in bytes for fast connections: fewer and larger
	// calls take less processor time.
	largeBuffer = 1 << 20

	// largeBuffers is the number of large buffers in use at most, in the whole
	// process.
	largeBuffers = 16
)

// buffer is memory with a reference count. The last release gives it back to
// its pool.
type buffer struct {
	b    []byte
	refs atomic.Int32
}

// Buffers are pooled, since fills and readers come in bursts.
var (
	smallPool = bufferPool(smallBuffer)
	largePool = bufferPool(largeBuffer)
	largeUsed atomic.Int32
)

func bufferPool(size int) *sync.Pool {
	return &sync.Pool{New: func() any { return &buffer{b: make([]byte, size)} }}
}

// takeBuffer returns a buffer, a large one if large is set and one is
// available.
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

// fit returns the buffer to go on with after a read of n bytes: a large one if
// they would have filled a small one. It replaces b.
func (b *buffer) fit(n int) *buffer {
	if large := n >= smallBuffer; large != b.large() {
		b.release()
		return takeBuffer(large)
	}
	return b
}

// LargeInUse returns the number of large buffers in use.
func LargeInUse() int { return int(largeUsed.Load()) }
