package fill

import (
	"context"
	"fmt"
	"io"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/internal/buffer"
)

// readBack is the number of bytes that are read back at once. If there are
// more, chunks that come meanwhile are read back later too, rather than kept in
// memory.
const readBack = 4 << 20

// hashAll hashes the content in order, while it comes. It takes bytes that come
// in order from memory, and reads others back from the spool. It returns at the
// end of the content.
func (f *fill) hashAll(ctx context.Context) error {
	for off := int64(0); ; {
		c, have, err := f.awaitHashing(ctx, off)
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		case c.buf != nil:
			f.hash.Write(c.buf.B[:c.n])
			c.buf.Release()
			off = c.end()
		default:
			if err := f.hashSpooled(off, have); err != nil {
				return err
			}
			off = have
		}
	}
}

// hashSpooled hashes the spool's bytes from off to end.
func (f *fill) hashSpooled(off, end int64) error {
	buf := buffer.Take(end-off >= buffer.Small)
	defer buf.Release()
	for off < end {
		n, err := f.file.ReadAt(buf.B[:min(int64(len(buf.B)), end-off)], off)
		if n == 0 {
			return fmt.Errorf("%w: read back: %w", errSpool, err)
		}
		f.hash.Write(buf.B[:n])
		off += int64(n)
	}
	return nil
}

// awaitHashing waits for the content after the first off bytes. It returns a
// chunk, or the offset up to which the spool has the content; at the end it
// returns io.EOF. The end of ctx must wake the spool.
func (s *spool) awaitHashing(ctx context.Context, off int64) (c chunk, have int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if chunks := s.chunks.list; len(chunks) > 0 {
			s.chunks.list = chunks[1:]
			s.chunks.room.Signal()
			return chunks[0], 0, nil
		}
		have = s.segments.has(0)
		switch {
		case have > off+readBack:
			return chunk{}, off + readBack, nil
		case have > off:
			s.chunks.next = have
			return chunk{}, have, nil
		case off == s.limit:
			return chunk{}, 0, io.EOF
		case ctx.Err() != nil:
			return chunk{}, 0, context.Cause(ctx)
		}
		s.changed.Wait()
	}
}
