package blobcache

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
)

// errSpool means that the spool failed while the source is fine.
var errSpool = errors.New("spool")

// spool is a temporary file that is filled, at one place or at several, while
// others read it. All but the file itself is guarded by mu; file, size and limit
// are set by start, before anybody reads or writes.
type spool struct {
	mu      sync.Mutex
	changed sync.Cond
	refs    int // the file is closed with the last
	joins   int // how often one was taken

	file    *os.File
	started bool
	ended   bool
	gone    bool // nobody may join any more
	err     error
	size    int64 // of the whole content, -1 until known
	limit   int64 // where the content ends, as far as that is known
	parts   parts
	written int64         // bytes in all parts
	plain   bool          // some of it is [Body.Plain]
	fresh   fresh         // what of it is still in memory
	waiting map[int64]int // how many readers wait at an offset
}

func (s *spool) init(refs int) {
	s.changed.L, s.fresh.room.L = &s.mu, &s.mu
	s.refs = refs
	s.size, s.limit = -1, unbounded
	s.waiting = make(map[int64]int)
}

func (s *spool) acquire() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refs == 0 || s.gone {
		return false
	}
	s.refs++
	s.joins++
	return true
}

func (s *spool) start(file *os.File, size int64, plain bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.file, s.size, s.started, s.plain = file, size, true, plain
	if size >= 0 {
		s.limit = size
	}
	s.changed.Broadcast()
}

// finish says that content of unknown size ends where the segment does.
func (s *spool) finish(seg *segment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = seg.at
}

func (s *spool) hold(from, to int64) *segment {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.parts.hold(from, to)
}

func (s *spool) yield(seg *segment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.parts.release(seg)
	s.changed.Broadcast()
}

// end releases the last byte to the readers, or tells them of the failure.
func (s *spool) end(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended, s.err = true, err
	if err == nil {
		s.size = s.written
	}
	s.changed.Broadcast()
}

// exposed reports whether parts of it must not be handed out, since anybody may
// have written them.
func (s *spool) exposed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.plain && !(s.ended && s.err == nil)
}

// verified reports whether the readers may have all of it.
func (s *spool) verified() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended && s.err == nil
}

func (s *spool) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed.Broadcast()
	s.fresh.room.Broadcast()
}

// available is how much readers may have from off on: what is there, but for
// the content's last byte, which is worth a whole body, until the digest is
// known to match. Of content of unknown size any byte may be the last.
func (s *spool) available(off int64) int64 {
	n := s.parts.has(off)
	switch {
	case s.ended && s.err == nil:
		return n
	case s.size < 0:
		return n - 1
	}
	return min(n, s.size-1-off)
}

func (s *spool) answered() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.started
}

// missing is how much is not in the spool yet, if that is known.
func (s *spool) missing() (n int64, known bool) {
	if !s.started || s.size < 0 {
		return 0, false
	}
	return s.size - s.written, true
}

// awaitSize waits until the size of the content is known: as a rule when the
// source has answered, at the end if it does not tell. Of empty content there
// is no byte to hold back, so it waits for the end too.
func (s *spool) awaitSize(ctx context.Context) (int64, error) {
	defer context.AfterFunc(ctx, s.wake)()
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.ended && (!s.started || s.size <= 0) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		s.changed.Wait()
	}
	return s.size, s.err
}

// awaitEnd waits until all of the content is verified, or the spool has failed.
func (s *spool) awaitEnd(ctx context.Context) (int64, error) {
	defer context.AfterFunc(ctx, s.wake)()
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.ended {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		s.changed.Wait()
	}
	return s.size, s.err
}

// awaitBytes waits until there is something to read at off and returns how
// much; io.EOF at the end of the content. An idle worker goes where somebody
// waits. The end of ctx must wake the spool.
func (s *spool) awaitBytes(ctx context.Context, off int64) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch n := s.available(off); {
		case ctx.Err() != nil:
			return 0, context.Cause(ctx)
		case s.err != nil:
			return 0, s.err
		case n > 0:
			return n, nil
		case s.ended:
			return 0, io.EOF
		}
		s.waiting[off]++
		s.changed.Wait()
		if s.waiting[off]--; s.waiting[off] == 0 {
			delete(s.waiting, off)
		}
	}
}
