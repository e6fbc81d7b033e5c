package blobcache

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
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/fill"
	"github.com/dependencyproxy/caddy-dependency-proxy/blobcache/store"
)

var errRefused = errors.New("the source refuses")

// site is a test with a cache; it counts the bytes that fills hold of quotas.
type site struct {
	*testing.T
	cache *Cache
	blobs *spoolHookBlobs

	mu    sync.Mutex
	held  int64 // bytes held of quotas
	holds int   // number of calls of Reserve
}

// spoolHookBlobs is a smallDisk whose Spool a test can replace.
type spoolHookBlobs struct {
	*smallDisk
	spool func() (*os.File, error) // replaces Spool, if set
}

func (s *spoolHookBlobs) Spool(ctx context.Context) (*os.File, error) {
	if s.spool != nil {
		return s.spool()
	}
	return s.smallDisk.Spool(ctx)
}

// request returns a request of a scope for content, whose source calls answer.
func (s *site) request(scope string, content []byte, answer func(ctx context.Context, offset, length int64) (*fill.Body, error)) fill.Request {
	return fill.Request{
		Digest: digest.FromBytes(content), Size: -1, Endpoint: "hub", Scope: scope, Group: scope, Connections: 1,
		Source: fill.SourceLimits{Fills: 8, GroupFills: 4},
		Reserve: func(n int64) bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.holds++
			s.held += n
			return true
		},
		Fetch: func(ctx context.Context, offset, length int64, _ string) (*fill.Body, error) {
			return answer(ctx, offset, length)
		},
	}
}

// holding returns the bytes that fills hold of quotas.
func (s *site) holding() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
}

// read reads the content of a request to its end or to an error.
func (s *site) read(req fill.Request) error {
	r, _, err := s.cache.Get(s.Context(), req)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(io.Discard, r)
	return err
}

// leave reads at most one byte of the content of a request and closes the reader.
func (s *site) leave(req fill.Request) {
	r, _, err := s.cache.Get(s.Context(), req)
	if err != nil {
		s.Error(err)
		return
	}
	_, _ = r.Read(make([]byte, 1))
	_ = r.Close()
}

// nothingLeft fails the test if a slot, space or a quota is still held after all fills
// have ended.
func (s *site) nothingLeft() {
	s.Helper()
	// This download is refused with another error if a slot is still held.
	further := s.request("a", []byte("further"), func(context.Context, int64, int64) (*fill.Body, error) { return nil, errRefused })
	further.Source = fill.SourceLimits{Fills: 1}
	if _, _, err := s.cache.Get(s.Context(), further); !errors.Is(err, errRefused) {
		s.Errorf("a further download: got %v, want %v", err, errRefused)
	}
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	k, c := s.cache.evictor, s.cache
	if k.reserved != 0 || len(k.groups) != 0 || k.wanted != 0 || k.written.Load() != 0 {
		s.Errorf("got %d bytes reserved, %d written, %d wanted and the groups %v, want 0, 0, 0 and none", k.reserved, k.written.Load(), k.wanted, k.groups)
	}
	if s.held != 0 {
		s.Errorf("got %d bytes held of quotas, want 0", s.held)
	}
	if len(c.Fills()) != 0 || len(k.reading) != 0 {
		s.Errorf("got %d fills and %d contents being read, want 0 and 0", len(c.Fills()), len(k.reading))
	}
}

// gives returns a source that answers with r and announces the size.
func gives(r io.Reader, size int64) func(context.Context, int64, int64) (*fill.Body, error) {
	return func(_ context.Context, offset, _ int64) (*fill.Body, error) {
		if offset > 0 {
			return nil, errRefused
		}
		return &fill.Body{ReadCloser: io.NopCloser(r), Size: size}, nil
	}
}

// hangs returns a source that announces the size, sends b and then stalls.
func hangs(b []byte, size int64) func(context.Context, int64, int64) (*fill.Body, error) {
	return func(ctx context.Context, offset, _ int64) (*fill.Body, error) {
		if offset > 0 {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		rest := readFunc(func([]byte) (int, error) { <-ctx.Done(); return 0, ctx.Err() })
		return &fill.Body{ReadCloser: io.NopCloser(io.MultiReader(bytes.NewReader(b), rest)), Size: size}, nil
	}
}

// TestCacheReleasesAllThatFillsTake checks that a pull releases its slot, its space and its
// part of a quota however it ends.
func TestCacheReleasesAllThatFillsTake(t *testing.T) {
	for name, end := range ends {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				files, err := store.OpenFileStore(dir)
				if err != nil {
					t.Fatal(err)
				}
				blobs := &spoolHookBlobs{smallDisk: &smallDisk{files, dirOf(files), 100 << 20}}
				s := &site{T: t, blobs: blobs, cache: New(blobs, Limits{Reserve: 1}, Hooks{})}
				b, _ := content(1, 3_000_000)
				end(s, b)
				time.Sleep(24 * time.Hour)
				synctest.Wait()
				s.nothingLeft()
			})
		})
	}
}
