package blobcache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// smallDisk is a FileStore on a pretended disk of size bytes that holds only the files in
// dir.
type smallDisk struct {
	*store.FileStore
	dir  string
	size int64
}

// Free returns the size of the disk less what the files in dir take of it. It walks the
// temporary files first, and counts a file that is moved meanwhile once.
func (s *smallDisk) Free(context.Context) (free, total int64, err error) {
	var seen []fs.FileInfo
	count := func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return present(err)
		}
		info, err := entry.Info()
		if err != nil {
			return present(err)
		}
		if !slices.ContainsFunc(seen, func(other fs.FileInfo) bool { return os.SameFile(info, other) }) {
			seen = append(seen, info)
		}
		return nil
	}
	err = errors.Join(filepath.WalkDir(filepath.Join(s.dir, "tmp"), count), filepath.WalkDir(s.dir, count))
	free = s.size
	for _, info := range seen {
		// A file system may report no blocks for a moment, while it writes a file.
		free -= max(info.Size(), taken(info))
	}
	return free, s.size, err
}

// present returns err, or nil if err is fs.ErrNotExist.
func present(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// TestEvictorRoomBesideFill checks that the bytes that a running fill has already written are
// not reserved for it a second time: other content is stored if it fits beside the fill's
// whole content, and not stored otherwise.
func TestEvictorRoomBesideFill(t *testing.T) {
	for _, test := range []struct {
		beside int
		stored bool
	}{{3_900_000, true}, {4_100_000, false}} {
		dir := t.TempDir()
		synctest.Test(t, func(t *testing.T) {
			files, err := store.OpenFileStore(dir)
			if err != nil {
				t.Fatal(err)
			}
			c := New(&smallDisk{files, dirOf(files), 10_000_000}, Limits{Reserve: 1}, Hooks{})
			large, d := content(1, 6_000_000)
			gate := make(chan struct{})
			r, _, err := c.Get(t.Context(), fill.Request{Digest: d, Size: -1, Fetch: func(context.Context, int64, int64, string) (*fill.Body, error) {
				rest := readFunc(func(p []byte) (int, error) { <-gate; return 0, io.EOF })
				return &fill.Body{ReadCloser: io.NopCloser(io.MultiReader(bytes.NewReader(large[:5_000_000]), rest, bytes.NewReader(large[5_000_000:]))), Size: 6_000_000}, nil
			}})
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait() // with 5 MB written and 1 MB to come
			small, other := content(2, test.beside)
			beside, _, err := c.Get(t.Context(), fill.Request{Digest: other, Size: -1, Fetch: fetchOf(small)})
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(beside); err != nil || !bytes.Equal(got, small) {
				t.Errorf("the other content: got %d bytes (equal: %t) and the error %v, want %d equal bytes and no error", len(got), bytes.Equal(got, small), err, len(small))
			}
			_ = beside.Close()
			close(gate)
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, large) {
				t.Errorf("the content of the fill: got %d bytes (equal: %t) and the error %v, want %d equal bytes and no error", len(got), bytes.Equal(got, large), err, len(large))
			}
			_ = r.Close()
			c.Flush(t.Context())
			if _, ok := c.Has(t.Context(), other); ok != test.stored {
				t.Errorf("the other content of %d bytes: got stored %t, want %t", test.beside, ok, test.stored)
			}
			if written := c.evictor.written.Load(); c.evictor.reserved != 0 || written != 0 {
				t.Errorf("at the end: got %d bytes reserved and %d counted as written, want 0 and 0", c.evictor.reserved, written)
			}
		})
	}
}

// TestFillReservesWhatHasCome checks that room is reserved for at most as many bytes as have
// come, and as many again, whatever size the source announces.
func TestFillReservesWhatHasCome(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		files, err := store.OpenFileStore(dir)
		if err != nil {
			t.Fatal(err)
		}
		c := New(&smallDisk{files, dirOf(files), 1 << 30}, Limits{Reserve: 1}, Hooks{})
		_, d := content(1, 1000)
		var reserved atomic.Int64
		next := make(chan []byte)
		var rest []byte
		r, _, err := c.Get(t.Context(), fill.Request{Digest: d, Size: -1, Reserve: func(n int64) bool { reserved.Add(n); return true },
			Fetch: func(context.Context, int64, int64, string) (*fill.Body, error) {
				return &fill.Body{Size: 1 << 29, ReadCloser: io.NopCloser(readFunc(func(p []byte) (n int, err error) {
					if len(rest) == 0 {
						rest = <-next
					}
					if rest == nil {
						return 0, errors.New("broken")
					}
					n = copy(p, rest)
					rest = rest[n:]
					return n, nil
				}))}, nil
			}})
		if err != nil {
			t.Fatal(err)
		}
		var come int64
		for _, n := range []int64{1, 1000, 20_000, 300_000} {
			next <- make([]byte, n)
			synctest.Wait()
			if come += n; reserved.Load() < come || reserved.Load() > 2*come {
				t.Errorf("after %d bytes: got %d bytes reserved, want at least these and at most twice as many", come, reserved.Load())
			}
		}
		close(next)
		_, _ = io.Copy(io.Discard, r)
		_ = r.Close()
		synctest.Wait()
		if reserved.Load() != 0 {
			t.Errorf("at the end: got %d bytes reserved, want none", reserved.Load())
		}
	})
}

// keptSpool is a smallDisk that keeps its latest spool for the test.
type keptSpool struct {
	*smallDisk
	spool *os.File
}

func (s *keptSpool) Spool(ctx context.Context) (spool *os.File, err error) {
	s.spool, err = s.smallDisk.Spool(ctx)
	return s.spool, err
}

// TestFillFailureReleasesRoom checks that a fill that fails gives back all its room on the
// disk, both the bytes that it has written and those that it has reserved.
func TestFillFailureReleasesRoom(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		files, err := store.OpenFileStore(dir)
		if err != nil {
			t.Fatal(err)
		}
		disk := &keptSpool{smallDisk: &smallDisk{files, dirOf(files), 10_000_000}}
		c := New(disk, Limits{Reserve: 1}, Hooks{})
		large, d := content(1, 6_000_000)
		r, _, err := c.Get(t.Context(), fill.Request{Digest: d, Size: -1, Fetch: func(context.Context, int64, int64, string) (*fill.Body, error) {
			return &fill.Body{ReadCloser: io.NopCloser(bytes.NewReader(large[:5_000_000])), Size: 6_000_000}, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(r); err == nil {
			t.Errorf("got %d bytes and no error, want an error", len(got))
		}
		synctest.Wait()
		if info, err := disk.spool.Stat(); err != nil || taken(info) > 5_500_000 {
			t.Errorf("the spool takes %d bytes of the disk for 5000000 bytes of content and the error is %v, want at most 5500000 and no error", taken(info), err)
		}
		_ = r.Close()
		c.Flush(t.Context())
		if written := c.evictor.written.Load(); c.evictor.reserved != 0 || written != 0 {
			t.Errorf("at the end: got %d bytes reserved and %d counted as written, want 0 and 0", c.evictor.reserved, written)
		}
		if free, total, err := c.blobs.Free(t.Context()); free != total || err != nil {
			t.Errorf("Free: got %d of %d bytes and the error %v, want all bytes and no error", free, total, err)
		}
	})
}

type readFunc func(p []byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }
