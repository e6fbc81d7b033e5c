package blobcache_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// TestReaderConforms holds readers to what io.Reader and io.Seeker promise.
func TestReaderConforms(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(80, 10_000))
		filling := e.mustGet(s)
		if err := iotest.TestReader(filling, s.content); err != nil {
			t.Errorf("from the spool: %v", err)
		}
		synctest.Wait()
		if err := iotest.TestReader(e.mustGet(s), s.content); err != nil {
			t.Errorf("from the store: %v", err)
		}
	})
}

func TestReaderSeeks(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s, gate := e.source(random(81, 10_000)), make(chan struct{})
		s.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
			return s.body(offset, gated(ctx, gate, s.from(offset))), nil
		}
		r := e.mustGet(s)
		if n, err := r.Read(nil); n != 0 || err != nil {
			t.Errorf("a read of nothing waits for nothing: %d, %v", n, err)
		}
		if off, err := r.Seek(0, io.SeekEnd); err != nil || off != 10_000 {
			t.Errorf("the end is known before the bytes: %d, %v", off, err)
		}
		if _, err := r.Seek(-1, io.SeekStart); !errors.Is(err, fs.ErrInvalid) || r.Err() != nil {
			t.Errorf("seek before the start: %v", err)
		}
		if off, err := r.Seek(-10, io.SeekCurrent); err != nil || off != 9990 {
			t.Errorf("seek back: %d, %v", off, err)
		}
		close(gate)
		e.same(r, s.content[9990:])
		if _, err := r.Seek(5, io.SeekEnd); err != nil {
			t.Error(err)
		}
		if n, err := r.Read(make([]byte, 10)); n != 0 || err != io.EOF {
			t.Errorf("beyond the end: %d bytes, %v", n, err)
		}
		if r.Err() != nil {
			t.Errorf("an end is no error: %v", r.Err())
		}
	})
}

// TestReaderCloseEndsRead is what a server of several ranges relies on.
func TestReaderCloseEndsRead(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s, gate := e.source(random(82, 10_000)), make(chan struct{})
		s.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
			return s.body(offset, io.MultiReader(io.LimitReader(s.from(0), 100), gated(ctx, gate, s.from(100)))), nil
		}
		r, other := e.mustGet(s), e.mustGet(s)
		var reads sync.WaitGroup
		reads.Go(func() {
			if got, err := io.ReadAll(r); err == nil || len(got) != 100 {
				t.Errorf("read %d bytes, %v", len(got), err)
			}
		})
		synctest.Wait()
		for range 3 { // more often than once is as good
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
		reads.Wait()
		if _, err := r.Read(make([]byte, 1)); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("read after close: %v", err)
		}
		close(gate)
		e.same(other, s.content)
		if n := s.fetches(); n != 1 {
			t.Errorf("%d fetches", n)
		}
	})
}

// TestReaderCloseEndsBypass is the same without a spool.
func TestReaderCloseEndsBypass(t *testing.T) {
	noSpool(t, func(t *testing.T, e *env) {
		s := e.source(random(83, 10_000))
		s.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
			return s.body(offset, io.MultiReader(io.LimitReader(s.from(0), 100), stalled(ctx))), nil
		}
		r := e.mustGet(s)
		var reads sync.WaitGroup
		reads.Go(func() {
			if _, err := io.ReadAll(r); !errors.Is(err, context.Canceled) {
				t.Errorf("read: %v", err)
			}
		})
		synctest.Wait()
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		reads.Wait()
	})
}

// flushes is a response that counts.
type flushes struct {
	bytes.Buffer
	writes, flushed int
	fail            error
}

func (f *flushes) Header() http.Header { return nil }
func (f *flushes) WriteHeader(int)     {}
func (f *flushes) Flush()              { f.flushed++ }
func (f *flushes) Write(p []byte) (int, error) {
	f.writes++
	if f.fail != nil {
		return 0, f.fail
	}
	return f.Buffer.Write(p)
}

func TestReaderWriteToFlushes(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s, gate := e.source(random(84, 1<<20)), make(chan struct{})
		s.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
			return s.body(offset, io.MultiReader(io.LimitReader(s.from(0), 5000), gated(ctx, gate, s.from(5000)))), nil
		}
		r, w := e.mustGet(s), &flushes{}
		var copies sync.WaitGroup
		copies.Go(func() {
			if n, err := io.Copy(w, r); err != nil || n != 1<<20 {
				t.Errorf("copied %d bytes, %v", n, err)
			}
		})
		synctest.Wait()
		if w.Len() != 5000 || w.flushed != 1 {
			t.Errorf("%d bytes and %d flushes while the source pauses", w.Len(), w.flushed)
		}
		close(gate)
		copies.Wait()
		if !bytes.Equal(w.Bytes(), s.content) {
			t.Error("wrong bytes")
		}
	})
}

func TestReaderWriteToFails(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(85, 300_000))
		s.answer = func(_ context.Context, _ int, offset int64) (*fill.Body, error) {
			return s.body(offset, cut(s.from(offset), max(0, 100_000-offset))), nil
		}
		gone := errors.New("client is gone")
		if n, err := io.Copy(&flushes{fail: gone}, e.mustGet(s)); n != 0 || !errors.Is(err, gone) {
			t.Errorf("copied %d bytes, %v", n, err)
		}
		r := e.mustGet(s)
		if n, err := io.Copy(&flushes{}, r); n > 100_000 || !errors.Is(err, errSource) || !errors.Is(r.Err(), errSource) {
			t.Errorf("copied %d bytes, %v, %v", n, err, r.Err())
		}
	})
}

// fromReader notes what it is given to read from.
type fromReader struct {
	flushes
	file bool
}

func (f *fromReader) ReadFrom(r io.Reader) (int64, error) {
	_, f.file = r.(interface{ Fd() uintptr })
	return f.Buffer.ReadFrom(r)
}

// TestReaderWriteToSendsFiles proves that a stored file reaches the connection as a
// file, which sendfile(2) wants, also from the middle.
func TestReaderWriteToSendsFiles(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(86, 300_000))
		e.whole(s)
		synctest.Wait()
		r, w := e.mustGet(s), &fromReader{}
		if _, err := r.Seek(1000, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(w, r); err != nil || n != 299_000 || !w.file {
			t.Errorf("copied %d bytes, %v, from a file: %v", n, err, w.file)
		}
		if !bytes.Equal(w.Bytes(), s.content[1000:]) {
			t.Error("wrong bytes")
		}
		if off, err := r.Seek(0, io.SeekCurrent); err != nil || off != 300_000 {
			t.Errorf("offset %d, %v", off, err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if _, err := io.Copy(w, r); err == nil || r.Err() == nil {
			t.Error("sent a closed file")
		}
	})
}

// TestReaderWriteNext: a range is written as the whole is, from the spool and from the
// store.
func TestReaderWriteNext(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(87, 300_000))
		for _, origin := range []string{"spool", "store"} {
			r := e.mustGet(s)
			for _, row := range []struct {
				off, n, want int64
				err          error
				file         bool
			}{
				{1000, 200_000, 200_000, nil, false},
				{299_000, 1000, 1000, nil, origin == "store"},
				{299_000, 1001, 1000, io.EOF, false},
				{5, 0, 0, nil, false},
			} {
				w := &fromReader{}
				if _, err := r.Seek(row.off, io.SeekStart); err != nil {
					t.Fatal(err)
				}
				n, err := r.WriteNext(w, row.n)
				if n != row.want || err != row.err || w.file != row.file {
					t.Errorf("%s: %d bytes of %d from %d on, %v, from a file: %v", origin, n, row.n, row.off, err, w.file)
				}
				if !bytes.Equal(w.Bytes(), s.content[row.off:row.off+row.want]) {
					t.Errorf("%s: wrong bytes from %d on", origin, row.off)
				}
				if off, err := r.Seek(0, io.SeekCurrent); err != nil || off != row.off+row.want {
					t.Errorf("%s: offset %d after %d bytes from %d on, %v", origin, off, n, row.off, err)
				}
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			synctest.Wait()
		}
	})
}

// failing is a writer that fails as it is told, or panics.
type failing struct{ err error }

func (f failing) Write([]byte) (int, error) {
	if f.err == nil {
		panic("no error")
	}
	return 0, f.err
}

// TestReaderWhenWriterFails: whatever a writer makes of it, a body is not taken for whole,
// and nothing that was lent to it stays away.
func TestReaderWhenWriterFails(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s, gate := e.source(random(88, 2<<20)), make(chan struct{})
		s.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
			return s.body(offset, io.MultiReader(io.LimitReader(s.from(0), 1<<20), gated(ctx, gate, s.from(1<<20)))), nil
		}
		for _, err := range []error{io.EOF, io.ErrClosedPipe, nil} {
			func() {
				defer func() { _ = recover() }()
				if n, err := e.mustGet(s).WriteTo(failing{err}); n != 0 || err == nil {
					t.Errorf("%d bytes, %v", n, err)
				}
			}()
		}
		close(gate)
		e.same(e.mustGet(s), s.content)
	})
}
