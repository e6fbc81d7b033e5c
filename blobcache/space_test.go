package blobcache

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// smallDisk is a blobs on a disk of so many bytes that has nothing else on it.
type smallDisk struct {
	*store.FileStore
	dir  string
	size int64
}

func (s *smallDisk) Free(context.Context) (free, total int64, err error) {
	free = s.size
	err = filepath.WalkDir(s.dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			free -= taken(info)
		}
		return err
	})
	return free, s.size, err
}

// TestEvictorRoomBesideFill: what a fill has of the disk is not free any more, and is
// not held free for it as well.
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
				t.Errorf("beside: %d bytes, %v", len(got), err)
			}
			_ = beside.Close()
			close(gate)
			if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, large) {
				t.Errorf("the fill: %d bytes, %v", len(got), err)
			}
			_ = r.Close()
			c.Flush(t.Context())
			if _, ok := c.Has(t.Context(), other); ok != test.stored {
				t.Errorf("%d bytes beside it are stored: %v", test.beside, ok)
			}
			if written := c.evictor.written.Load(); c.evictor.reserved != 0 || written != 0 {
				t.Errorf("%d bytes stay reserved, %d written", c.evictor.reserved, written)
			}
		})
	}
}

// keptSpool remembers the latest spool.
type keptSpool struct {
	*smallDisk
	spool *os.File
}

func (s *keptSpool) Spool(ctx context.Context) (spool *os.File, err error) {
	s.spool, err = s.smallDisk.Spool(ctx)
	return s.spool, err
}

// TestFillFailureReleasesRoom: a fill that breaks off gives back all that it had of the
// disk, come or not.
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
			t.Errorf("%d bytes and no error", len(got))
		}
		synctest.Wait()
		if info, err := disk.spool.Stat(); err != nil || taken(info) > 5_500_000 {
			t.Errorf("%d bytes of the disk are held for a reader of 5000000, %v", taken(info), err)
		}
		_ = r.Close()
		c.Flush(t.Context())
		if written := c.evictor.written.Load(); c.evictor.reserved != 0 || written != 0 {
			t.Errorf("%d bytes stay reserved, %d written", c.evictor.reserved, written)
		}
		if free, total, err := c.blobs.Free(t.Context()); free != total || err != nil {
			t.Errorf("%d of %d bytes are free, %v", free, total, err)
		}
	})
}

type readFunc func(p []byte) (int, error)

func (f readFunc) Read(p []byte) (int, error) { return f(p) }
