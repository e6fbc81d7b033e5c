package blobcache

import (
	"errors"
	"time"
)

// A source is fast that sends so many bytes in such a time, some 160 MB/s.
const (
	speedInterval = 100 * time.Millisecond
	speedBytes    = 16 << 20
)

const (
	// A connection dawdles that has sent so many times less than another one in
	// such a time. All who read in order wait for what it has been asked for.
	slowInterval = 3 * time.Second
	slowFactor   = 16

	// maxReplaced is how often a worker tries another connection for that.
	maxReplaced = 2
)

var errSlowConnection = errors.New("the connection is far slower than others")

// needsWorkers waits until the first worker turns out to be slower than it need be, or
// has ended, and tells whether there is something for another one to do. Of a
// fast source, which may be held up by the hasher, several ranges at once bring
// no more, only later in order.
func (f *fill) needsWorkers(ended <-chan struct{}) bool {
	ticker := time.NewTicker(speedInterval)
	defer ticker.Stop()
	for before, over := int64(0), false; ; {
		select {
		case <-ticker.C:
		case <-ended:
			over = true
		}
		f.mu.Lock()
		written, left := f.written, f.segments.left(f.limit)
		held := len(f.chunks.list) == maxChunks || time.Since(f.chunks.waited) < speedInterval
		f.mu.Unlock()
		if left == 0 || over || written-before < speedBytes && !held {
			return left > 0
		}
		before = written
	}
}

// speed is how fast a worker's connection has been lately.
type speed struct {
	since    time.Time
	bytes    int64
	replaced int // connections
}

func (p *speed) restart() { p.since, p.bytes = time.Now(), 0 }

// tooSlow counts bytes that a worker's connection has sent, and tells whether
// another one is to be tried.
func (f *fill) tooSlow(w *worker, n int) bool {
	p := &w.speed
	p.bytes += int64(n)
	took := time.Since(p.since)
	if took < slowInterval {
		return false
	}
	rate := float64(p.bytes) / took.Seconds()
	p.restart()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.best = max(f.best, rate)
	if f.single == w || rate*slowFactor > f.best || p.replaced == maxReplaced {
		return false
	}
	p.replaced++
	return true
}
