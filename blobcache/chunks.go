package blobcache

import (
	"context"
	"sync"
	"time"
)

const (
	// maxChunks is how many chunks a spool keeps in memory at most. What comes
	// faster than it can be hashed has to wait then, as the last byte would.
	maxChunks = 8

	// writePiece is how much is written at once, in bytes. A page cache may take
	// it as one piece of memory. Smaller ones take more time in all; larger ones
	// may have to be found first, or got back page by page from a virtual machine's
	// host, while nobody receives what upstream sends.
	writePiece = 128 << 10

	// maxLenders is how many may have them. Of a crowd some are slow, and would
	// hold memory that the fill needs; they read the file.
	maxLenders = 4
)

// chunk is a part of the content that is in the spool, and still in memory. It
// holds its buffer.
type chunk struct {
	buf *buffer
	off int64
	n   int
}

func (c chunk) end() int64 { return c.off + int64(c.n) }

// chunks are the chunks that wait to be hashed, in order and without a gap
// between them. They are guarded by the spool's lock.
type chunks struct {
	list   []chunk
	next   int64     // the offset of the chunk that would follow
	room   sync.Cond // signalled when there is some again
	waited time.Time // when a worker has last had to wait for that
}

// put writes the first n bytes of a buffer where a segment goes on, then lets
// the readers have them. It returns the buffer to go on with: what is to be
// hashed next stays in memory until then.
func (s *spool) put(ctx context.Context, seg *segment, buf *buffer, n int) (*buffer, error) {
	s.awaitRoom(ctx, seg)
	for at := 0; at < n; at += writePiece {
		if _, err := s.file.WriteAt(buf.b[at:min(n, at+writePiece)], seg.at+int64(at)); err != nil {
			return buf, err
		}
	}
	if s.keep(seg, buf, n) {
		return takeBuffer(n >= smallBuffer), nil
	}
	return buf.fit(n), nil
}

// awaitRoom waits until the chunk that is to be hashed next can be kept, if the
// segment goes on with that one. The end of ctx must wake the spool.
func (s *spool) awaitRoom(ctx context.Context, seg *segment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for seg.at == s.chunks.next && len(s.chunks.list) >= maxChunks && ctx.Err() == nil {
		s.chunks.room.Wait()
		s.chunks.waited = time.Now()
	}
}

// keep counts in what has been written, and tells whether the buffer is kept.
func (s *spool) keep(seg *segment, buf *buffer, n int) (kept bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// There is no room only if the fill has ended and nobody hashes any more.
	if kept = seg.at == s.chunks.next && len(s.chunks.list) < maxChunks; kept {
		s.chunks.list = append(s.chunks.list, chunk{buf, seg.at, n})
		s.chunks.next += int64(n)
	}
	seg.at += int64(n)
	s.written += int64(n)
	s.changed.Broadcast()
	return kept
}

// lend gives one of a few readers what it may have from an offset on, up to so
// many bytes, if that is still in memory. It is to be given back.
func (s *spool) lend(off, most int64) (p []byte, back func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refs > 1+maxLenders { // the fill itself is one
		return nil, nil
	}
	for _, c := range s.chunks.list {
		if c.off <= off && off < c.end() {
			n := min(s.available(off), c.end()-off, most)
			if n <= 0 {
				break
			}
			c.buf.hold()
			return c.buf.b[off-c.off:][:n], c.buf.release
		}
	}
	return nil, nil
}

// dropChunks gives back what nobody will hash any more.
func (s *spool) dropChunks() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.chunks.list {
		c.buf.release()
	}
	s.chunks.list = nil
}
