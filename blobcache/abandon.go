package blobcache

import (
	"errors"
	"time"
)

// ErrAbandoned means that a fill was ended because nobody was left to read it.
var ErrAbandoned = errors.New("nobody is left to read it")

const (
	// abandonGrace is how long a fill that may be ended waits for the next
	// reader: a client that asks for one range after the other is away in
	// between.
	abandonGrace = 10 * time.Second

	// A fill of which less is missing, in bytes or as a part of the whole, is
	// nearly done and goes on in any case.
	nearlyDone      = 32 << 20
	nearlyDoneParts = 4
)

// release gives up a reference to the fill. The last one closes what is open.
func (f *fill) release() {
	f.mu.Lock()
	f.refs--
	deserted := f.refs == 1 && !f.ended
	if f.refs == 0 {
		if f.file != nil {
			_ = f.file.Close()
		}
		if f.handOver != nil {
			_ = f.handOver.Close()
		}
		f.slot.release()
		f.slot = nil
	}
	written, size, joins := f.written, f.size, f.joins
	f.mu.Unlock()
	if !deserted {
		return
	}
	if f.cache.stopAbandoned {
		time.AfterFunc(abandonGrace, func() { f.abandon(joins) })
	} else {
		f.cache.hooks.abandoned(f.digest, written, size, true)
	}
}

// abandon ends a fill that nobody has joined since it had so many readers,
// unless it is nearly done.
func (f *fill) abandon(joins int) {
	f.mu.Lock()
	missing, known := f.missing()
	far := !known || missing > nearlyDone && missing > f.size/nearlyDoneParts
	deserted := f.refs == 1 && !f.ended && !f.gone && f.joins == joins
	f.gone = f.gone || deserted && far
	written, size := f.written, f.size
	f.mu.Unlock()
	if !deserted {
		return
	}
	f.cache.hooks.abandoned(f.digest, written, size, !far)
	if far {
		f.stop(ErrAbandoned)
	}
}
