//go:build unix

package blobcache_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
)

// midway returns an answer function for s. Its first answer calls fault after n bytes,
// and its later answers have no faults.
func midway(s *source, n int64, fault func()) func(context.Context, int, int64) (*fill.Body, error) {
	return func(_ context.Context, call int, offset int64) (*fill.Body, error) {
		if call > 0 {
			return s.body(offset, s.from(offset)), nil
		}
		broken := sync.OnceFunc(fault)
		return s.body(0, io.MultiReader(io.LimitReader(s.from(0), n), readFunc(func(p []byte) (int, error) {
			broken()
			return 0, io.EOF
		}), s.from(n))), nil
	}
}

// faultySpools makes all spools fail in the given way from the start.
func (e *env) faultySpools(fault func(testing.TB, *os.File)) {
	e.store.onSpool = func(spool *os.File) error {
		fault(e.t, spool)
		return nil
	}
}

// TestGetOnFullDisk checks that clients get the whole content when the disk is full from
// the start, that the storage error is reported and that nothing is stored.
func TestGetOnFullDisk(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(60, 300_000))
		e.faultySpools(full)
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() { e.whole(s) })
		}
		all.Wait()
		synctest.Wait()
		if got := e.troubled(); len(got) == 0 || !strings.Contains(got[0], "no space left") {
			t.Errorf("got the storage errors %q, want the first to contain %q", got, "no space left")
		}
		if e.stored(s) {
			t.Error("the content is stored, want it not stored")
		}
	})
}

// TestFillWhenDiskFailsMidway checks that readers at several offsets get the rest of the
// content when writes to the spool start to fail in the middle of a fill.
func TestFillWhenDiskFailsMidway(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s, asked := e.source(random(61, 400_000)), make(chan struct{})
		s.answer = midway(s, 200_000, func() {
			<-asked
			readOnly(t, e.store.spool.Load())
		})
		var readers []*blobcache.Reader
		for _, at := range []int64{0, 1000, 199_999, 300_000, 399_999} {
			r := e.mustGet(s)
			if _, err := r.Seek(at, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			readers = append(readers, r)
		}
		if _, err := io.CopyN(io.Discard, readers[0], 150_000); err != nil {
			t.Fatal(err)
		}
		close(asked)
		e.same(readers[0], s.content[150_000:])
		e.same(readers[1], s.content[1000:])
		e.same(readers[2], s.content[199_999:])
		e.same(readers[3], s.content[300_000:])
		e.same(readers[4], s.content[399_999:])
		// A reader that continues from the source can also seek backwards.
		if _, err := readers[0].Seek(-10, io.SeekEnd); err != nil {
			t.Fatal(err)
		}
		e.same(readers[0], s.content[399_990:])
		synctest.Wait()
		if e.stored(s) || len(e.troubled()) != 1 {
			t.Errorf("got stored %t and the storage errors %q, want stored false and one error", e.stored(s), e.troubled())
		}
	})
}

// TestFillWhenDiskFailsAnywhere checks what readers get when the spool fails while several
// ranges are being fetched. If writes fail, all readers get the rest of the content from
// the source. If reads fail, the bytes that a reader has already got cannot be verified,
// so only a reader that has got no bytes yet may continue.
func TestFillWhenDiskFailsAnywhere(t *testing.T) {
	for name, fault := range map[string]func(testing.TB, *os.File){"writes": readOnly, "reads": unreadable} {
		t.Run(name, func(t *testing.T) {
			ranges(t, func(t *testing.T, e *env, s *source) {
				s.ranged = func(ctx context.Context, n int, offset, length int64) (*fill.Body, error) {
					if n == 5 {
						fault(t, e.store.spool.Load())
					}
					return s.slow(ctx, offset, length), nil
				}
				var all sync.WaitGroup
				for _, at := range []int64{0, 0, 300_000, 2_000_000, rangedSize - 1} {
					all.Go(func() {
						r := e.mustGet(s)
						if _, err := r.Seek(at, io.SeekStart); err != nil {
							t.Error(err)
						}
						got, err := io.ReadAll(r)
						if right := bytes.Equal(got, s.content[at:]); err == nil && !right || err != nil && (name == "writes" || right) {
							t.Errorf("read from offset %d: got %d bytes (equal to the content: %t) and the error %v, want %d equal bytes and no error, or fewer and an error if reads of the spool fail",
								at, len(got), right, err, len(s.content[at:]))
						}
					})
				}
				all.Wait()
				synctest.Wait()
				if e.stored(s) || len(e.troubled()) == 0 {
					t.Errorf("got stored %t and the storage errors %q, want stored false and at least one error", e.stored(s), e.troubled())
				}
				e.whole(s) // through a new spool
			})
		})
	}
}

// TestFillWhenDiskAndSourceFail checks that a reader gets an error if its spool fails and
// the second answer of the source, which it continues from, is wrong as well.
func TestFillWhenDiskAndSourceFail(t *testing.T) {
	const size = 400_000
	for name, second := range map[string]func(s *source) (*fill.Body, error){
		"refuses": func(*source) (*fill.Body, error) { return nil, errSource },
		"breaks":  func(s *source) (*fill.Body, error) { return s.body(0, cut(s.from(0), 300_000)), nil },
		"flips": func(s *source) (*fill.Body, error) {
			return s.body(0, bytes.NewReader(flipped(s.content, 300_000))), nil
		},
		"too long":  func(s *source) (*fill.Body, error) { return sized(s, size, append(s.content[:size:size], 0)), nil },
		"too short": func(s *source) (*fill.Body, error) { return sized(s, size, s.content[:size-1]), nil },
		"longer": func(s *source) (*fill.Body, error) {
			return sized(s, size+1, append(s.content[:size:size], 0)), nil
		},
		"unknown": func(s *source) (*fill.Body, error) { return sized(s, -1, append(s.content[:size:size], 0)), nil },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, e *env) {
				s := e.source(random(62, size))
				asked := make(chan struct{})
				first := midway(s, 200_000, func() {
					<-asked
					readOnly(t, e.store.spool.Load())
				})
				s.answer = func(ctx context.Context, n int, offset int64) (*fill.Body, error) {
					if n == 0 {
						return first(ctx, n, offset)
					}
					return second(s)
				}
				r := e.mustGet(s)
				close(asked)
				// Read no more than the announced size, as http.ServeContent does.
				if got, err := io.ReadAll(io.LimitReader(r, size)); err == nil || len(got) == size {
					t.Errorf("got %d bytes and the error %v, want fewer than %d bytes and an error", len(got), err, size)
				}
				if r.Err() == nil {
					t.Error("Err: got nil after a failed read, want its error")
				}
				if _, err := r.Read(make([]byte, 10)); err == nil {
					t.Error("Read after a failed read: got no error, want one")
				}
				if err := r.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// sized returns a body of s with the given content that announces the given size.
func sized(s *source, size int64, content []byte) *fill.Body {
	body := s.body(0, bytes.NewReader(content))
	body.Size = size
	return body
}

// TestFillWhenSpoolCannotBeRead checks that a reader gets the whole content when the spool
// cannot be read, and that the storage error is reported once.
func TestFillWhenSpoolCannotBeRead(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(63, 300_000))
		e.faultySpools(unreadable)
		e.whole(s)
		synctest.Wait()
		if got := e.troubled(); len(got) != 1 || !strings.HasPrefix(got[0], "read spool") {
			t.Errorf("got the storage errors %q, want one that begins with %q", got, "read spool")
		}
	})
}

// TestPutBytesOnFullDisk checks that PutBytes keeps the content in memory when the disk is
// full, and that the storage error is reported once.
func TestPutBytesOnFullDisk(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(64, 1000))
		e.faultySpools(full)
		if err := e.cache.PutBytes(t.Context(), s.digest, s.content); err != nil {
			t.Error(err)
		}
		if got, err := e.bytes(s.digest, 1000); err != nil || !bytes.Equal(got, s.content) {
			t.Errorf("from memory: got %d bytes and the error %v, want the %d bytes that were put", len(got), err, len(s.content))
		}
		if len(e.troubled()) != 1 {
			t.Errorf("got the storage errors %q, want one", e.troubled())
		}
		if _, err := e.files.Open(t.Context(), s.digest); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("open in the store: got the error %v, want %v", err, os.ErrNotExist)
		}
	})
}

// TestReaderWhenDiskFailsUnderSendfile checks that WriteTo fails if the stored file, which
// it hands to the connection, cannot be read, and that the next request fetches the
// content again. A failure of the client must not cause a new fetch.
func TestReaderWhenDiskFailsUnderSendfile(t *testing.T) {
	bubble(t, func(t *testing.T, e *env) {
		s := e.source(random(65, 300_000))
		e.whole(s)
		synctest.Wait()
		var file *os.File
		e.store.onOpen = func(d digest.Digest) (io.ReadSeekCloser, error) {
			opened, err := e.files.Open(t.Context(), d)
			if err != nil {
				return nil, err
			}
			file = opened.(*os.File)
			return file, nil
		}
		r := e.mustGet(s)
		unreadable(t, file)
		if n, err := r.WriteTo(io.Discard); err == nil || n != 0 {
			t.Errorf("WriteTo: sent %d bytes and got the error %v, want 0 bytes and an error", n, err)
		}
		if origin := e.whole(s); origin != fill.Started || len(e.troubled()) != 1 {
			t.Errorf("got the origin %v and the storage errors %q, want the origin %v and one error", origin, e.troubled(), fill.Started)
		}
		// The client disconnects: the stored content must stay.
		synctest.Wait()
		client, conn := io.Pipe()
		_ = client.Close()
		if _, err := e.mustGet(s).WriteTo(conn); err == nil {
			t.Error("WriteTo to a closed connection: got no error, want one")
		}
		if !e.stored(s) || len(e.troubled()) != 1 {
			t.Errorf("got stored %t and the storage errors %q, want stored true and one error", e.stored(s), e.troubled())
		}
	})
}
