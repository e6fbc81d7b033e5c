package blobcache_test

import (
	"io"
	"os"
	"sync"
	"time"
)

// spoolFaults are what a disk may do to a spool that is in use already; none where
// that cannot be brought about.
var spoolFaults []func(spool *os.File)

// fullSpool is a disk that is full from the first byte on, or nil.
var fullSpool func(spool *os.File)

// wear has some spools fail at once or at a random moment, and notes the spool for
// those that fail at a random byte.
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

// wearing is r, but at a byte of it the disk fails under one of the latest spools.
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

func (w *world) spoil(spool *os.File) {
	if len(spoolFaults) > 0 {
		spoolFaults[w.upTo(len(spoolFaults))](spool)
	}
}
