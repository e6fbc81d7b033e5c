package blobcache

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

// reads is the body of a source; it adds the bytes read to sent.
type reads struct {
	*bytes.Reader
	sent *int64
}

func (r reads) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p[:min(len(p), 16<<10)])
	*r.sent += int64(n)
	return n, err
}

func (reads) Close() error { return nil }

// TestFillOfUnknownSizeIsBounded checks that content of unknown size that exceeds a limit
// is delivered whole without being stored, that the source sends its bytes only once, and
// that no temporary file and no reserved space are left.
func TestFillOfUnknownSizeIsBounded(t *testing.T) {
	const size = 400_000
	for name, test := range map[string]struct {
		limits Limits
		free   int64
		stored bool
	}{
		"no bound":        {limits: Limits{}, free: 1 << 31, stored: true},
		"max_blob_size":   {limits: Limits{MaxBlobSize: 300_000}, free: 1 << 31},
		"max_size":        {limits: Limits{MaxSize: 300_000}, free: 1 << 31},
		"reserve":         {limits: Limits{Reserve: 1 << 20}, free: 1<<20 + 300_000},
		"exactly as much": {limits: Limits{MaxBlobSize: size}, free: 1 << 31, stored: true},
		"nine tenths":     {limits: Limits{MaxSize: size/9*10 + 10}, free: 1 << 31, stored: true},
		"all of max_size": {limits: Limits{MaxSize: size}, free: 1 << 31},
		"little room":     {limits: Limits{Reserve: 1 << 20}, free: 1<<20 + size, stored: true},
		"one less":        {limits: Limits{MaxBlobSize: size - 1}, free: 1 << 31},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				files, err := store.OpenFileStore(dir)
				if err != nil {
					t.Fatal(err)
				}
				c := New(&smallDisk{files, dirOf(files), test.free}, test.limits, Hooks{})
				grows(t, c, size)
				if stored := has(t, c, 1, size); stored != test.stored {
					t.Errorf("got stored %v, want %v", stored, test.stored)
				}
				if entries, err := os.ReadDir(filepath.Join(dirOf(files), "tmp")); err != nil || len(entries) != 0 {
					t.Errorf("the temporary folder: got the files %v and the error %v, want none", entries, err)
				}
			})
		})
	}
}

// grows gets content of that size from a source that does not announce the size.
func grows(t *testing.T, c *Cache, size int) {
	t.Helper()
	want, d := content(1, size)
	var sent int64
	r, _, err := c.Get(t.Context(), fill.Request{Digest: d, Size: -1, Fetch: func(_ context.Context, offset, _ int64, _ string) (*fill.Body, error) {
		return &fill.Body{ReadCloser: reads{bytes.NewReader(want[offset:]), &sent}, Size: -1, Offset: offset}, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if cerr := r.Close(); err != nil || cerr != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, the error %v and the error %v of Close, want the %d bytes of the content and no error", len(got), err, cerr, size)
	}
	c.Flush(t.Context())
	// The bytes in the buffer when the limit is reached are fetched a second time.
	if sent < int64(size) || sent > int64(size)+64<<10 {
		t.Errorf("the source sent %d bytes, want %d to %d", sent, size, size+64<<10)
	}
	c.evictor.mu.Lock()
	defer c.evictor.mu.Unlock()
	if c.evictor.reserved != 0 {
		t.Errorf("got %d bytes reserved, want 0", c.evictor.reserved)
	}
}
