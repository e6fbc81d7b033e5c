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

// spool is a temporary file that grows while others read it. All but the file
// itself is guarded by mu; size is set once, by start, and written changes in
// the fill's goroutine only, which may read it without the lock.
type spool struct {
	mu      sync.Mutex
	changed sync.Cond
	refs    int // the file is closed with the last

	file    *os.File
	started bool
	ended   bool
	err     error
	size    int64 // of the whole content, -1 until known
	written int64
}

func (s *spool) init(refs int) {
	s.changed.L = &s.mu
	s.refs = refs
	s.size = -1
}

func (s *spool) acquire() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refs == 0 {
		return false
	}
	s.refs++
	return true
}

func (s *spool) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refs--
	if s.refs == 0 && s.file != nil {
		_ = s.file.Close()
	}
}

func (s *spool) start(file *os.File, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.file, s.size, s.started = file, size, true
	s.changed.Broadcast()
}

// append writes at the end of the spool, then lets the readers have it.
func (s *spool) append(p []byte) error {
	if _, err := s.file.WriteAt(p, s.written); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.written += int64(len(p))
	s.changed.Broadcast()
	return nil
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
}

// visible is how much readers may have: all but the last byte, which is worth
// a whole body, until the digest is known to match.
func (s *spool) visible() int64 {
	if s.ended && s.err == nil {
		return s.written
	}
	return max(0, s.written-1)
}

func (s *spool) answered() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.started
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

// awaitBytes waits until there is something to read at off and returns how
// much; io.EOF at the end of the content.
func (s *spool) awaitBytes(ctx context.Context, off int64) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch n := s.visible() - off; {
		case ctx.Err() != nil:
			return 0, context.Cause(ctx)
		case s.err != nil:
			return 0, s.err
		case n > 0:
			return n, nil
		case s.ended:
			return 0, io.EOF
		}
		s.changed.Wait()
	}
}

// tail reads a spool from any offset while it grows. If the spool fails it
// goes on with bytes straight from the source.
type tail struct {
	ctx    context.Context
	fill   *fill
	req    Request
	size   int64
	off    int64
	direct *direct
}

// reader turns a reference to the fill into a reader, waiting for the source's
// answer, or gives the reference up.
func (f *fill) reader(ctx context.Context, req Request) (*Reader, error) {
	size, err := f.awaitSize(ctx)
	if err != nil {
		f.release()
		return nil, err
	}
	// The context's end, or Close, must find a reader that waits for bytes.
	ctx, cancel := context.WithCancel(ctx)
	context.AfterFunc(ctx, f.wake)
	return &Reader{source: &tail{ctx: ctx, fill: f, req: req, size: size}, cancel: cancel, size: size}, nil
}

func (t *tail) Read(p []byte) (int, error) {
	if t.direct != nil {
		return t.direct.Read(p)
	}
	n, err := t.fill.awaitBytes(t.ctx, t.off)
	if err == nil {
		var read int
		read, err = t.fill.file.ReadAt(p[:min(int64(len(p)), n)], t.off)
		t.off += int64(read)
		if read > 0 {
			return read, nil
		}
		t.fill.cache.trouble("read spool of "+t.fill.digest.String(), err)
		err = errSpool
	}
	if !errors.Is(err, errSpool) {
		return 0, err
	}
	if t.direct, err = openDirect(t.ctx, t.req, t.size); err != nil {
		return 0, err
	}
	if _, err = t.direct.Seek(t.off, io.SeekStart); err != nil {
		return 0, err
	}
	return t.direct.Read(p)
}

// Seek needs no size: [Reader] turns all offsets into absolute ones.
func (t *tail) Seek(offset int64, _ int) (int64, error) {
	t.off = offset
	if t.direct != nil {
		return t.direct.Seek(offset, io.SeekStart)
	}
	return offset, nil
}

func (t *tail) Close() error {
	t.fill.release()
	if t.direct != nil {
		return t.direct.Close()
	}
	return nil
}

// discard removes a spool's temporary file; whoever reads it may go on.
func discard(file *os.File) {
	if file != nil {
		_ = os.Remove(file.Name())
	}
}
