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

// TestReaderConforms checks that a Reader meets the contracts of io.Reader and io.Seeker,
// both while the content is downloaded and once it is stored.
func TestReaderConforms(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(80, 10_000))
		filling := e.mustGet(s)
		if err := iotest.TestReader(filling, s.content); err != nil {
			t.Errorf("reader on the spool: got the error %v, want none", err)
		}
		synctest.Wait()
		if err := iotest.TestReader(e.mustGet(s), s.content); err != nil {
			t.Errorf("reader on the store: got the error %v, want none", err)
		}
	})
}

// TestReaderSeeks checks that a Reader seeks before the bytes have arrived, rejects a
// negative offset, and reports io.EOF beyond the end.
func TestReaderSeeks(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s, gate := e.source(random(81, 10_000)), make(chan struct{})
		s.answer = func(ctx context.Context, _ int, offset int64) (*fill.Body, error) {
			return s.body(offset, gated(ctx, gate, s.from(offset))), nil
		}
		r := e.mustGet(s)
		if n, err := r.Read(nil); n != 0 || err != nil {
			t.Errorf("Read of an empty buffer: got %d bytes and the error %v, want 0 bytes and no error", n, err)
		}
		if off, err := r.Seek(0, io.SeekEnd); err != nil || off != 10_000 {
			t.Errorf("Seek to the end before the bytes have arrived: got offset %d and the error %v, want offset 10000 and no error", off, err)
		}
		if _, err := r.Seek(-1, io.SeekStart); !errors.Is(err, fs.ErrInvalid) || r.Err() != nil {
			t.Errorf("Seek before the start: got the error %v and the reader's error %v, want fs.ErrInvalid and none", err, r.Err())
		}
		if off, err := r.Seek(-10, io.SeekCurrent); err != nil || off != 9990 {
			t.Errorf("Seek back by 10: got offset %d and the error %v, want offset 9990 and no error", off, err)
		}
		close(gate)
		e.same(r, s.content[9990:])
		if _, err := r.Seek(5, io.SeekEnd); err != nil {
			t.Error(err)
		}
		if n, err := r.Read(make([]byte, 10)); n != 0 || err != io.EOF {
			t.Errorf("Read beyond the end: got %d bytes and the error %v, want 0 bytes and io.EOF", n, err)
		}
		if r.Err() != nil {
			t.Errorf("reader's error after io.EOF: got %v, want none", r.Err())
		}
	})
}

// TestReaderCloseEndsRead checks that Close ends a Read that waits for the source, and that
// other readers of the same download still get the whole content.
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
				t.Errorf("Read ended by Close: got %d bytes and the error %v, want 100 bytes and an error", len(got), err)
			}
		})
		synctest.Wait()
		for range 3 { // Close may be called repeatedly
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		}
		reads.Wait()
		if _, err := r.Read(make([]byte, 1)); !errors.Is(err, fs.ErrClosed) {
			t.Errorf("Read after Close: got the error %v, want fs.ErrClosed", err)
		}
		close(gate)
		e.same(other, s.content)
		if n := s.fetches(); n != 1 {
			t.Errorf("got %d fetches, want 1", n)
		}
	})
}

// TestReaderCloseEndsBypass checks that Close ends a Read that waits for the source when the
// content is passed on without a spool file.
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
				t.Errorf("Read ended by Close: got the error %v, want context.Canceled", err)
			}
		})
		synctest.Wait()
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		reads.Wait()
	})
}

// flushes is an http.ResponseWriter that records the written bytes, counts writes and flushes,
// and fails each write with the error fail if it is set.
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

// TestReaderWriteToFlushes checks that WriteTo flushes the response when the source pauses.
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
				t.Errorf("copied %d bytes with the error %v, want %d bytes and no error", n, err, 1<<20)
			}
		})
		synctest.Wait()
		if w.Len() != 5000 || w.flushed != 1 {
			t.Errorf("got %d bytes and %d flushes while the source pauses, want 5000 bytes and 1 flush", w.Len(), w.flushed)
		}
		close(gate)
		copies.Wait()
		if !bytes.Equal(w.Bytes(), s.content) {
			t.Error("the written bytes differ from the content")
		}
	})
}

// TestReaderWriteToFails checks that WriteTo returns the error of the writer, and that of the
// source.
func TestReaderWriteToFails(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(85, 300_000))
		s.answer = func(_ context.Context, _ int, offset int64) (*fill.Body, error) {
			return s.body(offset, cut(s.from(offset), max(0, 100_000-offset))), nil
		}
		gone := errors.New("client is gone")
		if n, err := io.Copy(&flushes{fail: gone}, e.mustGet(s)); n != 0 || !errors.Is(err, gone) {
			t.Errorf("copied %d bytes with the error %v, want 0 bytes and the error %v", n, err, gone)
		}
		r := e.mustGet(s)
		if n, err := io.Copy(&flushes{}, r); n > 100_000 || !errors.Is(err, errSource) || !errors.Is(r.Err(), errSource) {
			t.Errorf("copied %d bytes with the error %v and the reader's error %v, want at most 100000 bytes and both errors %v", n, err, r.Err(), errSource)
		}
	})
}

// fromReader is an io.ReaderFrom that records whether it was given a file to read from.
type fromReader struct {
	flushes
	file bool
}

func (f *fromReader) ReadFrom(r io.Reader) (int64, error) {
	_, f.file = r.(interface{ Fd() uintptr })
	return f.Buffer.ReadFrom(r)
}

// TestReaderWriteToSendsFiles checks that WriteTo passes a stored file to the connection as a
// file, as sendfile(2) requires, also when it starts in the middle of the file.
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
			t.Errorf("copied %d bytes with the error %v, from a file: %v; want 299000 bytes, no error, from a file: true", n, err, w.file)
		}
		if !bytes.Equal(w.Bytes(), s.content[1000:]) {
			t.Error("the written bytes differ from the content")
		}
		if off, err := r.Seek(0, io.SeekCurrent); err != nil || off != 300_000 {
			t.Errorf("got offset %d and the error %v, want offset 300000 and no error", off, err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if _, err := io.Copy(w, r); err == nil || r.Err() == nil {
			t.Errorf("copy from a closed reader: got the error %v and the reader's error %v, want an error in both", err, r.Err())
		}
	})
}

// TestReaderWriteNext checks that WriteNext writes a range of the content, from the spool and
// from the store, and advances the offset past it.
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
					t.Errorf("%s: WriteNext of %d bytes at offset %d: got %d bytes, the error %v, from a file: %v; want %d, %v, %v", origin, row.n, row.off, n, err, w.file, row.want, row.err, row.file)
				}
				if !bytes.Equal(w.Bytes(), s.content[row.off:row.off+row.want]) {
					t.Errorf("%s: the bytes written from offset %d differ from the content", origin, row.off)
				}
				if off, err := r.Seek(0, io.SeekCurrent); err != nil || off != row.off+row.want {
					t.Errorf("%s: got offset %d and the error %v after %d bytes from offset %d, want offset %d and no error", origin, off, err, n, row.off, row.off+row.want)
				}
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			synctest.Wait()
		}
	})
}

// failing is a writer that fails with the given error, or panics if there is none.
type failing struct{ err error }

func (f failing) Write([]byte) (int, error) {
	if f.err == nil {
		panic("no error")
	}
	return 0, f.err
}

// TestReaderWhenWriterFails checks that WriteTo reports an error when the writer fails, even
// with io.EOF, and that a writer that fails or panics does not disturb later readers.
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
					t.Errorf("WriteTo: got %d bytes and the error %v, want 0 bytes and an error", n, err)
				}
			}()
		}
		close(gate)
		e.same(e.mustGet(s), s.content)
	})
}
