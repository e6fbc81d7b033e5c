package fill

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

// errSpool means that the spool failed and the source did not.
var errSpool = errors.New("spool")

// sizePatience is how long after the source's answer the end of content is awaited
// whose size nothing tells.
const sizePatience = 100 * time.Millisecond

// spool is a temporary file that is written, at one or several places, while
// others read it. All fields except the file's content are guarded by mu. Start
// sets file, size and limit before any read or write.
type spool struct {
	mu      sync.Mutex
	changed sync.Cond
	refs    int // references; the release of the last one closes the file
	joins   int // how often a reader has taken a reference

	file     *os.File
	started  bool
	ended    bool
	gone     bool // no further request may join
	err      error
	size     int64 // of the whole content, -1 until known
	limit    int64 // where the content ends, as far as that is known
	segments segments
	written  int64         // bytes in all parts
	plain    bool          // some of it is [Body.Plain], or from a replica
	given    bool          // readers have had bytes
	chunks   chunks        // the bytes that are still in memory
	waiting  map[int64]int // how many readers wait at an offset

	startedAt time.Time // if the size was not known then
}

func (s *spool) init(refs int) {
	s.changed.L, s.chunks.room.L = &s.mu, &s.mu
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
	} else {
		s.startedAt = time.Now()
		time.AfterFunc(sizePatience, s.wake)
	}
	s.changed.Broadcast()
}

// resize takes the size of the content, and whether it is plain, from the first body of
// another attempt.
func (s *spool) resize(body *Body) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size, s.limit, s.plain = body.Size, unbounded, s.plain || body.Plain
	if s.size >= 0 {
		s.limit = s.size
	}
	s.changed.Broadcast()
}

// finish sets the end of content of unknown size to where the segment ends.
func (s *spool) finish(seg *segment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = seg.at
}

func (s *spool) hold(from, to int64) *segment {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.segments.hold(from, to)
}

func (s *spool) yield(seg *segment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.segments.release(seg)
	s.changed.Broadcast()
}

// complete releases the last byte to the readers. The content is verified, and
// its size is the number of bytes written.
func (s *spool) complete() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.size, s.ended = s.written, true
	s.changed.Broadcast()
}

// fail ends the spool with an error for its readers.
func (s *spool) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.ended = err, true
	s.changed.Broadcast()
}

// exposed reports whether anyone on the way may have written some of the bytes,
// so that ranges must not be handed out.
func (s *spool) exposed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.plain && !(s.ended && s.err == nil)
}

// verified reports whether readers may have all of it.
func (s *spool) verified() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended && s.err == nil
}

func (s *spool) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed.Broadcast()
	s.chunks.room.Broadcast()
}

// available returns how many bytes readers may have from off on: all that are
// there, except for the last byte of the content until the digest is known to
// match. If the size is not known, any byte may be the last.
func (s *spool) available(off int64) int64 {
	n := s.segments.has(off)
	switch {
	case s.ended && s.err == nil:
		return n
	case s.size < 0:
		return n - 1
	}
	return min(n, s.size-1-off)
}

// contradicts returns an error if the content does not have the size that a reader
// has announced, as far as that is known.
func (s *spool) contradicts(announced int64) error {
	switch {
	case announced < 0 || s.size == announced:
		return nil
	case s.size >= 0:
		return fmt.Errorf("the content has %d bytes instead of %d: %w", s.size, announced, ErrSizeMismatch)
	case s.written > announced:
		return fmt.Errorf("the source sent more than %d bytes: %w", announced, ErrSizeMismatch)
	}
	return nil
}

func (s *spool) answered() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.started
}

// missing returns how many bytes are not in the spool yet, if that is known.
func (s *spool) missing() (n int64, known bool) {
	if !s.started || s.size < 0 {
		return 0, false
	}
	return s.size - s.written, true
}

// awaitSize waits until the source has answered and returns the size of the
// content, or -1. If neither the source nor the request tells it, awaitSize waits
// for the first byte and for sizePatience, within which small content ends. Empty
// content has no byte to hold back, so awaitSize waits for its end.
func (s *spool) awaitSize(ctx context.Context, expected int64) (int64, error) {
	defer context.AfterFunc(ctx, s.wake)()
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.ended && (!s.started || s.size == 0 || max(s.size, expected) < 0 && !s.flows()) {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		s.changed.Wait()
	}
	return s.size, s.err
}

// flows reports whether a reader of content of unknown size need not wait any
// longer for its end.
func (s *spool) flows() bool {
	return s.available(0) > 0 && time.Since(s.startedAt) >= sizePatience
}

// awaitEnd waits until the content is verified or the spool has failed.
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

// awaitBytes waits until there are bytes to read at off and returns their
// number, or io.EOF at the end of the content. The reader has announced a size, or
// -1, and says whether it takes the bytes. Idle workers fetch what readers wait for. The
// end of ctx must wake the spool.
func (s *spool) awaitBytes(ctx context.Context, off, announced int64, take bool) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		n, err := s.available(off), s.contradicts(announced)
		if announced >= 0 && !s.ended {
			n = min(n, announced-1-off) // its last byte is held back too
		}
		switch {
		case ctx.Err() != nil:
			return 0, context.Cause(ctx)
		case s.err != nil:
			return 0, s.err
		case err != nil:
			return 0, err
		case n > 0:
			s.given = s.given || take
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
