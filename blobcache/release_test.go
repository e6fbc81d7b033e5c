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

// site is a cache of which a test counts what is taken.
type site struct {
	*testing.T
	cache *Cache
	blobs *spoolHookBlobs

	mu    sync.Mutex
	held  int64 // against quotas
	holds int   // how often something was
}

// spoolHookBlobs fails where a test wants it.
type spoolHookBlobs struct {
	*smallDisk
	spool func() (*os.File, error) // instead of a spool, if set
}

func (s *spoolHookBlobs) Spool(ctx context.Context) (*os.File, error) {
	if s.spool != nil {
		return s.spool()
	}
	return s.smallDisk.Spool(ctx)
}

// request asks for some bytes that come as answer says.
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

func (s *site) holding() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
}

// read takes what a request brings until it ends or fails.
func (s *site) read(req fill.Request) error {
	r, _, err := s.cache.Get(s.Context(), req)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = io.Copy(io.Discard, r)
	return err
}

// leave reads a byte of a request and goes.
func (s *site) leave(req fill.Request) {
	r, _, err := s.cache.Get(s.Context(), req)
	if err != nil {
		s.Error(err)
		return
	}
	_, _ = r.Read(make([]byte, 1))
	_ = r.Close()
}

// nothingLeft fails if anything is still taken although all is over.
func (s *site) nothingLeft() {
	s.Helper()
	// With a slot that is still taken this would be one download too many.
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
		s.Errorf("%d bytes stay reserved, %d written, %d wanted, groups %v", k.reserved, k.written.Load(), k.wanted, k.groups)
	}
	if s.held != 0 {
		s.Errorf("%d bytes are held of a quota", s.held)
	}
	if len(c.Fills()) != 0 || len(k.reading) != 0 {
		s.Errorf("%d fills are known, and %d readers", len(c.Fills()), len(k.reading))
	}
}

// gives answers with a body of so many bytes, as it says.
func gives(r io.Reader, size int64) func(context.Context, int64, int64) (*fill.Body, error) {
	return func(_ context.Context, offset, _ int64) (*fill.Body, error) {
		if offset > 0 {
			return nil, errRefused
		}
		return &fill.Body{ReadCloser: io.NopCloser(r), Size: size}, nil
	}
}

// hangs sends some bytes and then nothing, for ever.
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

// TestCacheReleasesAllThatFillsTake: whatever a pull ends with, it gives back its slot, its room
// and what it holds of a quota.
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
