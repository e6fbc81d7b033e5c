package blobcache

import (
	"errors"
	"time"
)

// A source is fast that sends so many bytes in such a time, some 160 MB/s.
const (
	paceInterval = 100 * time.Millisecond
	paceBytes    = 16 << 20
)

const (
	// A connection dawdles that has sent so many times less than another one in
	// such a time. All who read in order wait for what it has been asked for.
	dawdleInterval = 3 * time.Second
	dawdleFactor   = 16

	// exchanges is how often a worker tries another connection for that.
	exchanges = 2
)

var errDawdles = errors.New("the connection is far slower than others")

// slow waits until the first worker turns out to be slower than it need be, or
// has ended, and tells whether there is something for another one to do. Of a
// fast source, which may be held up by the hasher, several ranges at once bring
// no more, only later in order.
func (f *fill) slow(ended <-chan struct{}) bool {
	ticker := time.NewTicker(paceInterval)
	defer ticker.Stop()
	for before, over := int64(0), false; ; {
		select {
		case <-ticker.C:
		case <-ended:
			over = true
		}
		f.mu.Lock()
		written, left := f.written, f.parts.left(f.limit)
		held := len(f.fresh.chunks) == freshChunks || time.Since(f.fresh.waited) < paceInterval
		f.mu.Unlock()
		if left == 0 || over || written-before < paceBytes && !held {
			return left > 0
		}
		before = written
	}
}

// pace is how fast a worker's connection has been lately.
type pace struct {
	since     time.Time
	bytes     int64
	exchanged int // connections
}

func (p *pace) restart() { p.since, p.bytes = time.Now(), 0 }

// dawdles counts bytes that a worker's connection has sent, and tells whether
// another one is to be tried.
func (f *fill) dawdles(w *worker, n int) bool {
	p := &w.pace
	p.bytes += int64(n)
	took := time.Since(p.since)
	if took < dawdleInterval {
		return false
	}
	rate := float64(p.bytes) / took.Seconds()
	p.restart()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.best = max(f.best, rate)
	if f.single == w || rate*dawdleFactor > f.best || p.exchanged == exchanges {
		return false
	}
	p.exchanged++
	return true
}
