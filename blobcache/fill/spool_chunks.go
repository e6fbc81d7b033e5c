package fill

import (
	"context"
	"sync"
	"time"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/internal/buffer"
)

const (
	// maxChunks is the number of chunks that a spool keeps in memory. Workers
	// wait if bytes come faster than they can be hashed.
	maxChunks = 8

	// writePiece is the number of bytes per write. A page cache may take that
	// as one piece of memory. Smaller writes cost more calls; larger ones may
	// first have to find memory, page by page in a virtual machine, while
	// nothing is received from the source.
	writePiece = 128 << 10

	// maxBorrowers is the number of readers that may read chunks from memory.
	// With more readers some are slow and would hold memory that the fill
	// needs; then all read the file.
	maxBorrowers = 4
)

// chunk is a part of the content that is in the spool and still in memory. It
// holds its buffer.
type chunk struct {
	buf *buffer.Buffer
	off int64
	n   int
}

func (c chunk) end() int64 { return c.off + int64(c.n) }

// chunks are the chunks that wait to be hashed, in order and without gaps. They
// are guarded by the spool's lock.
type chunks struct {
	list   []chunk
	next   int64     // the offset of the chunk that would follow
	room   sync.Cond // signalled when there is some again
	waited time.Time // when a worker has last had to wait for that
}

// put writes the first n bytes of a buffer where a segment continues, and then
// makes them available to readers. It returns the buffer for the next bytes; a
// chunk that is to be hashed next keeps its buffer until then.
func (s *spool) put(ctx context.Context, seg *segment, buf *buffer.Buffer, n int) (*buffer.Buffer, error) {
	s.awaitRoom(ctx, seg)
	for at := 0; at < n; at += writePiece {
		if _, err := s.file.WriteAt(buf.B[at:min(n, at+writePiece)], seg.at+int64(at)); err != nil {
			return buf, err
		}
	}
	if s.keep(seg, buf, n) {
		return buffer.Take(n >= buffer.Small), nil
	}
	return buf.Fit(n), nil
}

// awaitRoom waits until the next chunk to be hashed can be kept, if the segment
// continues with that one. The end of ctx must wake the spool.
func (s *spool) awaitRoom(ctx context.Context, seg *segment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for seg.at == s.chunks.next && len(s.chunks.list) >= maxChunks && ctx.Err() == nil {
		s.chunks.room.Wait()
		s.chunks.waited = time.Now()
	}
}

// keep counts bytes that have been written, and reports whether it keeps the
// buffer.
func (s *spool) keep(seg *segment, buf *buffer.Buffer, n int) (kept bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Without room the fill has ended, and nothing is hashed any more.
	if kept = seg.at == s.chunks.next && len(s.chunks.list) < maxChunks; kept {
		s.chunks.list = append(s.chunks.list, chunk{buf, seg.at, n})
		s.chunks.next += int64(n)
	}
	seg.at += int64(n)
	s.written += int64(n)
	s.changed.Broadcast()
	return kept
}

// lend returns bytes from an offset on, at most `most`, if they are still in
// memory and there are few readers. The caller must call back when it has used
// them.
func (s *spool) lend(off, most int64) (p []byte, back func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refs > 1+maxBorrowers { // the fill itself is one
		return nil, nil
	}
	for _, c := range s.chunks.list {
		if c.off <= off && off < c.end() {
			n := min(s.available(off), c.end()-off, most)
			if n <= 0 {
				break
			}
			c.buf.Hold()
			return c.buf.B[off-c.off:][:n], c.buf.Release
		}
	}
	return nil, nil
}

// dropChunks releases the chunks that will not be hashed any more.
func (s *spool) dropChunks() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.chunks.list {
		c.buf.Release()
	}
	s.chunks.list = nil
}
