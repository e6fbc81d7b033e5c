package fill

import (
	"errors"
	"time"
)

// ErrAbandoned means that a fill was ended because its last reader had left.
var ErrAbandoned = errors.New("the last reader has left")

const (
	// abandonGrace is how long a fill without readers waits for the next one. A
	// client that asks for one range after the other is absent in between.
	abandonGrace = 10 * time.Second

	// A fill goes on if fewer bytes than nearlyDone, or than a part of
	// nearlyDoneParts, are missing.
	nearlyDone      = 32 << 20
	nearlyDoneParts = 4
)

// release gives up a reference to the fill. The last one closes the open file
// and body.
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
	if f.table.config.StopAbandoned {
		time.AfterFunc(abandonGrace, func() { f.abandon(joins) })
	} else {
		f.table.config.Hooks.abandoned(f.digest, written, size, true)
	}
}

// abandon ends a fill that no request has joined since it had joins readers,
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
	f.table.config.Hooks.abandoned(f.digest, written, size, !far)
	if far {
		f.stop(ErrAbandoned)
	}
}
