package blobcache_test

import (
	"io"
	"os"
	"sync"
	"time"
)

// spoolFaults are functions that make an open spool fail. There are none on systems where
// a test cannot do that.
var spoolFaults []func(spool *os.File)

// fullSpool makes every write to a new spool fail as on a full disk. It is nil on systems
// where a test cannot do that.
var fullSpool func(spool *os.File)

// wear makes some spools fail at once or at a random time. It records each spool for
// wearing, which makes one fail at a random byte.
func (w *world) wear(spool *os.File) {
	w.mu.Lock()
	w.spools = append(w.spools, spool)
	w.mu.Unlock()
	switch w.upTo(8) {
	case 0:
		if fullSpool != nil {
			fullSpool(spool)
		}
	case 1, 2:
		late := time.Duration(w.upTo(2000)) * time.Millisecond
		time.AfterFunc(late, func() { w.spoil(spool) })
	}
}

// wearing returns a reader of r that makes one of the latest three spools fail at the byte
// with the offset at.
func (w *world) wearing(r io.Reader, at int64) io.Reader {
	fails := sync.OnceFunc(func() {
		w.mu.Lock()
		latest := w.spools[max(len(w.spools)-3, 0):]
		w.mu.Unlock()
		if len(latest) > 0 {
			w.spoil(latest[w.upTo(len(latest))])
		}
	})
	return io.MultiReader(io.LimitReader(r, at), readFunc(func([]byte) (int, error) {
		fails()
		return 0, io.EOF
	}), r)
}

// spoil makes the spool fail in a random way.
func (w *world) spoil(spool *os.File) {
	if len(spoolFaults) > 0 {
		spoolFaults[w.upTo(len(spoolFaults))](spool)
	}
}
