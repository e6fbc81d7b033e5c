package fill

import (
	"errors"
	"time"
)

// A source is fast if it sends speedBytes per speedInterval, some 160 MB/s.
const (
	speedInterval = 100 * time.Millisecond
	speedBytes    = 16 << 20
)

const (
	// A connection is slow if its rate over slowInterval is 1/slowFactor of
	// another one's. Readers that read in order wait for what it has been asked
	// for.
	slowInterval = 3 * time.Second
	slowFactor   = 16

	// maxReplaced is how often a worker replaces a slow connection.
	maxReplaced = 2
)

var errSlowConnection = errors.New("the connection is far slower than others")

// needsWorkers waits until the first worker has ended or is slower than it need
// be, and reports whether there is something left to fetch. Several ranges at
// once do not speed up a fast source, or one that the hasher holds up; they
// only come out of order.
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

// speed measures the rate of a worker's connection.
type speed struct {
	since    time.Time
	bytes    int64
	replaced int // connections
}

func (p *speed) restart() { p.since, p.bytes = time.Now(), 0 }

// tooSlow counts bytes of a worker's connection, and reports whether the
// connection should be replaced.
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
